"""From runs to numbers and pictures: scores, statistics, figures, reports."""
