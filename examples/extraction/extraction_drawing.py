"""The figure and the table of the measured numbers."""

from __future__ import annotations

from pathlib import Path

COLOURS = ("#D55E00", "#E69F00", "#CC79A7", "#999999", "#56B4E9", "#009E73", "#0072B2")


def rests(found: dict) -> str:
    """Where the expected pull rests, from the first look at the window to the last."""
    each = [", ".join(f"{x:.2f}" for x in at) for at in found["rests"].values()]
    return "; then ".join(dict.fromkeys(each))


def table(content: dict) -> str:
    """All settings as a Markdown table."""
    lines = [
        "| weight, times | two modes: rests at | teams of 2, 4, 8 on a played mode, of 20 "
        "| displaced by error 0.1, width 0.05, 0.2, 0.5 | fitted: plain, regression "
        "| noise, width 0.05: independent, minus z, pair | width 0.5 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in content["settings"].items():
        displaced = [f"{x:.3f}" for x in found["displaced"].values()]
        cells = [name, rests(found), ", ".join(str(x) for x in found["landed"].values())]
        cells += [", ".join(displaced[:-2]), ", ".join(displaced[-2:])]
        cells += [", ".join(f"{x:.2f}" for x in at.values()) for at in found["spread"].values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def rounded(found):
    """Four significant digits."""
    if isinstance(found, dict):
        return {key: rounded(value) for key, value in found.items()}
    if isinstance(found, list):
        return [rounded(value) for value in found]
    return float(f"{found:.4g}") if isinstance(found, float) else found


def figure(content: dict, grid: list[float], path: Path) -> None:
    """Draw the pull, the share of coordinated teams, the displacement and the noise."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(10, 7.4), layout="constrained", dpi=82)
    FigureCanvasAgg(drawing)
    (pulls, teams), (errors, noise) = drawing.subplots(2, 2)
    settings = content["settings"]
    for (name, found), colour in zip(settings.items(), COLOURS, strict=True):
        if name.startswith("sigma2, sliding"):
            continue  # its curves are those of the default, but for their scale
        for (when, curve), style in zip(found["pull"].items(), ("-", "--", ":"), strict=False):
            stage = {"0.0": ", start", "1.0": ", end"}.get(when, ", middle")
            label = name.replace(" (default)", "") + (stage if len(found["pull"]) > 1 else "")
            peak = max(abs(x) for x in curve)
            scaled = [x / peak for x in curve]
            pulls.plot(grid, scaled, style, color=colour, linewidth=1.4, label=label)
    pulls.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
    for mode in (-0.8, 0.8):
        pulls.axvline(mode, color="#bbbbbb", linewidth=0.8, zorder=0)
    pulls.set(xlabel="action", ylabel="expected pull over its largest")
    pulls.set_title("(a) two modes at ±0.8: where the pull leads", fontsize=10)
    pulls.set_ylim(-1.95, 1.1)
    pulls.legend(fontsize=6.5, loc="lower center", ncols=2)
    for place, (found, colour) in enumerate(zip(settings.values(), COLOURS, strict=True)):
        for group, count in enumerate(found["landed"].values()):
            teams.bar(group + 0.12 * (place - 3), count, 0.11, color=colour)
            spot = group + 0.12 * (place - 3)
            teams.text(spot, count + 0.2, str(count), ha="center", fontsize=6)
        for group, width in enumerate(found["spread"].values()):
            for shift, (kind, mark) in enumerate((("minus_z", "x"), ("pair", "o"))):
                spot = group + 0.11 * (place - 3) + 0.03 * (shift - 0.5)
                noise.plot(spot, width[kind], mark, color=colour, markersize=6)
    names = list(next(iter(settings.values()))["landed"])
    teams.set_xticks(range(len(names)), [f"{n} agents" for n in names])
    teams.set(ylim=(0, 22.5), ylabel="of 20 teams")
    teams.set_title("(b) exact sequential scores: on a played joint mode", fontsize=10)
    times = {float(t): found for t, found in content["times"].items()}
    styles = {"0.05": "-", "0.2": "--", "0.5": ":"}
    for width, style in styles.items():
        line = [found[width] for found in times.values()]
        errors.plot(list(times), line, style, color="#333333", label=f"error 0.1, width {width}")
    for kind, colour in (("plain", "#D55E00"), ("regression", "#0072B2")):
        line = [found[kind] for found in times.values()]
        errors.plot(list(times), line, "o-", color=colour, markersize=3, label=f"fitted, {kind}")
    errors.set(xscale="log", yscale="log", xlabel="noise time t", ylabel="RMS, action units")
    errors.set_title("(c) one mode: how far off it an erring score rests", fontsize=10)
    errors.legend(fontsize=7)
    noise.set_yscale("log")
    noise.set_xticks([0, 1], ["width 0.05", "width 0.5"])
    noise.set(xlim=(-0.5, 1.5), ylim=(0.0005, 3), ylabel="standard deviation, action units")
    noise.set_title("(d) noise of two predictions: × minus z, ● antithetic pair", fontsize=10)
    for place, name in enumerate(settings):
        noise.plot([], [], "s", color=COLOURS[place], label=name)
    noise.legend(fontsize=6.5, loc="lower left")
    drawing.savefig(path)
