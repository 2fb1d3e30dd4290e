"""``validate``, ``describe``, ``merge``, ``subset`` and ``split`` on the command line."""

import json
import shlex

import pytest

from benchmarl_ssd.data import validate
from benchmarl_ssd.data.examples import write_example


@pytest.fixture
def folder(tmp_path):
    return write_example(tmp_path / "data")


def spoil(folder):
    file = folder / "data" / "agents" / "observation.memmap"
    file.write_bytes(b"\xff" * 4 + file.read_bytes()[4:])  # a NaN


def test_validate_a_sound_dataset(run, folder):
    assert run("validate", folder) == (
        0,
        f"{folder}, 20 transitions, 4 episodes: nothing wrong\n",
        "",
    )
    assert "values were not looked at" in run("validate", folder, "--fast")[1]


def test_validate_reports_everything_and_fails(run, folder):
    spoil(folder)
    raw = json.loads((folder / "metadata.json").read_text())
    raw["counts"] |= {"terminated": 4, "truncated": 0}
    (folder / "metadata.json").write_text(json.dumps(raw))
    code, out, error = run("validate", folder)
    assert (code, error) == (1, "")
    assert "error: values (agents/observation, transition 0)\n" in out
    assert "expected finite values\n" in out
    assert "found nan in agents/observation at transition 0\n" in out
    assert f"subset {folder} --sound --out NEW" in " ".join(out.split())
    assert "4 errors" in out.splitlines()[-1]
    code, out, error = run("validate", folder, "--json")
    assert (code, error) == (1, "")
    content = json.loads(out)
    assert (content["errors"], content["warnings"]) == (4, 0)
    assert {"level", "check", "key", "row", "count", "expected", "found", "mend"} == set(
        content["findings"][0]
    )


def test_the_command_a_finding_names_mends_it(run, tmp_path):
    folder = write_example(tmp_path / "it's data")
    spoil(folder)
    code, out, _ = run("validate", folder, "--json")
    mends = {f["check"]: f["mend"] for f in json.loads(out)["findings"]}
    command = mends["values"].split("`")[1]
    arguments = shlex.split(command.replace("NEW", shlex.quote(str(tmp_path / "new"))))
    assert arguments[0] == "benchmarl-ssd"
    code, out, error = run(*arguments[1:])
    assert (code, error) == (0, "")
    assert "3 episodes" in out
    assert run("validate", tmp_path / "new")[0] == 0


def test_warnings_do_not_fail(run, tmp_path):
    folder = write_example(tmp_path / "data", episodes=1)
    code, out, _ = run("validate", folder, "--json")
    assert (code, json.loads(out)["errors"]) == (0, 0)


def test_describe(run, folder, tmp_path):
    code, out, error = run("describe", folder, "--figure", tmp_path / "figure.png")
    assert (code, error) == (0, "")
    for title in ("RETURN", "LENGTH", "ACTIONS", "COVERAGE", "SOURCE"):
        assert f"\n{title}\n" in out
    assert "20 transitions in 4 episodes (2 terminated, 2 truncated)" in out
    assert "no score: the dataset has no references" in out
    assert "4 distinct first observations" in out
    assert (tmp_path / "figure.png").stat().st_size > 1000
    code, out, error = run("describe", folder, "--figure", tmp_path / "figure.png")
    assert (code, out) == (1, "")
    assert error.startswith("error: expected a path where nothing is yet")


def test_describe_as_json_with_scores_on_another_grid(run, folder, tmp_path):
    raw = json.loads((folder / "metadata.json").read_text())
    raw["references"] = {"random": -10.0, "expert": 0.0}
    (folder / "metadata.json").write_text(json.dumps(raw))
    other = write_example(tmp_path / "other", seed=1)
    code, out, error = run("describe", folder, "--json", "--grid-from", other)
    assert (code, error) == (0, "")
    content = json.loads(out)
    mean = validate(folder).episode_return["mean"]
    assert content["return"]["mean"] == pytest.approx(mean)
    assert content["score"]["mean"] == pytest.approx(100 + 10 * mean)
    assert content["coverage"]["outside"] > 0
    assert content["counts"]["episodes"] == 4


def test_describe_builds_a_recipe_and_keeps_json_clean(run, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHMARL_SSD_ROOT", str(tmp_path))
    code, out, error = run("describe", "coordination/bandit/modes", "--json")
    assert code == 0, error
    assert "building the dataset of recipe coordination/bandit/modes" in error
    assert json.loads(out)["id"] == "coordination/bandit/modes"


def test_split_subset_and_merge(run, folder, tmp_path):
    parts = ["--out", tmp_path / "a", "--out", tmp_path / "b", "--fractions", "0.75,0.25"]
    code, out, error = run("split", folder, *parts)
    assert (code, error) == (0, "")
    assert out.splitlines()[0].startswith(f"{tmp_path / 'a'}: 15 transitions, 3 episodes, return")
    code, out, error = run("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c")
    assert (code, error) == (0, "")
    assert validate(tmp_path / "c").counts == validate(folder).counts
    code, _, error = run("subset", folder, "--out", tmp_path / "d", "--quantiles", "0.5", "1.0")
    assert (code, error) == (0, "")
    assert validate(tmp_path / "d").source["selection"] == {"quantiles": [0.5, 1.0]}
    code, _, error = run("subset", folder, "--out", tmp_path / "e", "--episode-ids", "0,2-3")
    assert (code, error) == (0, "")
    assert validate(tmp_path / "e").source["selection"] == {"ids": [0, 2, 3]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["validate", "none"], "found nothing there"),
        (["describe", "none"], "a dataset's folder or a recipe's id"),
        (["merge", "data", "--out", "new"], "at least two datasets"),
        (["merge", "data", "other", "--out", "new"], "to differ in groups"),
        (["merge", "data", "data", "--out", "data"], "never overwritten"),
        (["subset", "data", "--out", "new", "--top", "0.01"], "found none"),
        (["subset", "data", "--out", "new", "--episode-ids", "1;2"], "as 0,7,20-29, found '1;2'"),
        (["subset", "data"], "Missing option '--out'"),
        (["split", "data", "--out", "new", "--out", "newer", "--fractions", "a"], "as 0.9,0.1"),
        (["split", "data", "--out", "new"], "at least two fractions"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_example("data")
    write_example("other", agents=3)
    code, out, error = run(*arguments)
    assert (code, out) == (1, "")
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "other"]
