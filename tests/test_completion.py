"""Shell completion: what a line may go on with, and that bash is told so."""

import shutil
import subprocess
import sys

import pytest

from src.completion import answers
from tests.cli import ENVIRONMENT, ROOT

BASH = shutil.which("bash")
ASKED = """
eval "$("$PYTHON" -m src.completion bash)"
complete -p python calipers
for line in 'python -m src.run method=tip' 'calipers run -m dataset=dtd,euro' 'python other.py a'
do
    COMP_LINE=$line COMP_POINT=${#line}
    _calipers
    echo "$line: ${COMPREPLY[*]}"
done
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("calipers ru", {"run"}),
        ("python -m src.pre", {"src.predict", "src.prepare"}),
        ("python -m src.run method=tip_a", {"method=tip_adapter", "method=tip_adapter_f"}),
        ("python -m src.run -m method=calip,tip_x", {"method=calip,tip_x"}),
        ("A=1 .venv/bin/python -m src.run dataset=eu", {"dataset=eurosat"}),
        ("calipers run eval_dataset=dtd,euros", {"eval_dataset=dtd,eurosat"}),
        ("calipers run +experiment=dem", {"+experiment=demo"}),
        ("calipers run show=data", {"show=dataset"}),
        ("calipers run hydra/launcher=job", {"hydra/launcher=joblib"}),
        ("calipers run --mu", {"--multirun"}),
        ("calipers run method=coop,calip method.head.n_c", {"method.head.n_context="}),
        ("calipers run method=nonsense shot", {"shots="}),
        ("calipers run back", {"backbone=", "backbone."}),
        ("calipers run dry_run=", {"dry_run=true", "dry_run=false"}),
        ("calipers run seed=", {"seed=1"}),
        ("calipers prepare dataset=dt", {"dataset=dtd"}),
        ("calipers predict im", {"images="}),
        ("calipers predict images=", set()),
        ("calipers nonsense ", set()),
        ("python other.py ", set()),
        ("", set()),
    ],
)
def test_a_line_goes_on(line, expected):
    assert set(answers(line)) == expected


def test_a_shell_that_breaks_words_is_told_the_rest_only():
    assert answers("calipers run method=tip_adapter_", breaks="=:") == ["tip_adapter_f"]


def test_every_setting_and_group_is_offered():
    offered = set(answers("calipers run "))
    assert {"method=", "dataset=", "shots=", "dataset.", "+experiment=", "show="} <= offered


@pytest.mark.skipif(BASH is None, reason="there is no bash")
def test_bash_completes():
    assert BASH is not None
    done = subprocess.run(
        [BASH, "--norc", "-c", ASKED],
        cwd=ROOT, env=ENVIRONMENT | {"PYTHON": sys.executable}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.stderr == ""
    *rules, first, second, third = done.stdout.splitlines()
    assert [rule.split()[-1] for rule in rules] == ["python", "calipers"]
    assert first == "python -m src.run method=tip: tip_adapter tip_adapter_f tip_x"
    assert second == "calipers run -m dataset=dtd,euro: dtd,eurosat"
    assert third == "python other.py a: "


def test_completing_loads_no_torch():
    code = (
        "import sys; from src.completion import answers; answers('calipers run method.head.');"
        "answers('calipers predict m'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
