"""docs/operators.md says what the code does: settings, commands, rungs, metrics, routes."""

from __future__ import annotations

import re
import shlex

import pytest
from deployment_files import REPOSITORY, check_command

from server import pipeline
from server.metrics import Metrics
from server.settings import Settings

GUIDE = (REPOSITORY / "docs" / "operators.md").read_text()
COMMANDS = sorted(set(re.findall(r"(?:^|`)(mdrec [a-z][^`\n|]*)", GUIDE, re.MULTILINE)) - {"mdrec serve --help"})


def test_the_settings_table_is_that_of_the_code() -> None:
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "unset" if field.default is None else f"`{field.default}`"
        lines.append(f"| `MDREC_{name.upper()}` | {default} | {field.description} |")
    expected = "\n".join(lines)
    found = GUIDE.split("<!-- settings -->\n")[1].split("\n<!-- /settings -->")[0]
    assert found == expected, f"put this table into docs/operators.md:\n{expected}"


def test_every_setting_it_names_exists() -> None:
    elsewhere = {"MDREC_HOME", "MDREC_DEBUG", "MDREC_URL", "MDREC_LOAD_DATASET", "MDREC_DATA"}
    settings = {f"MDREC_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"MDREC_[A-Z_]+", GUIDE)) <= settings | elsewhere


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_it_names_is_real(command: str) -> None:
    arguments = shlex.split(command)
    if arguments[-1] in ("verify", "rollback"):
        arguments.append("NAME")  # named in a sentence, without its argument
    check_command(arguments)


def test_every_rung_is_explained() -> None:
    table = GUIDE.split("## Degraded answers")[1].split("##")[0]
    explained = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    ladder = re.findall(r"^    (\w+) +\w", pipeline.__doc__ or "", re.MULTILINE)
    assert set(explained) == {*ladder, "record"}
    source = "".join(path.read_text() for path in (REPOSITORY / "server").glob("*.py"))
    for rung in explained:
        assert f'"{rung}"' in source


def test_every_metric_is_listed_with_its_labels() -> None:
    metrics = Metrics()
    found = {}
    for one in vars(metrics).values():
        if hasattr(one, "_labelnames"):
            suffix = "_total" if one._type == "counter" else ""
            found[one._name + suffix] = ",".join(one._labelnames)
    assert len(found) >= 10
    table = GUIDE.split("## Metrics")[1].split("##")[0]
    listed = dict(re.findall(r"`(mdrec_\w+)(?:\{([\w,]+)\})?`", table))
    assert listed == found


def test_every_route_it_names_is_served() -> None:
    from server.app import create_app

    served = set(create_app(Settings(operator_token=None)).openapi()["paths"])  # type: ignore[call-arg]
    named = set(re.findall(r"(?:GET|PUT|POST) (/[^\s`]+)", GUIDE)) | {"/readyz", "/v1/feedback"}
    assert named <= served


def test_the_images_are_built_as_it_says() -> None:
    told = set(re.findall(r"^docker build .*", GUIDE, re.MULTILINE))
    comments = "".join(path.read_text() for path in (REPOSITORY / "deploy" / "docker").glob("Dockerfile.*"))
    assert told == set(re.findall(r"^# +(docker build .*)", comments, re.MULTILINE))


def test_every_file_it_names_exists() -> None:
    for path in set(re.findall(r"deploy/[\w./-]+\w", GUIDE)):
        assert (REPOSITORY / path).exists(), path
    for unit in set(re.findall(r"mdrec-[\w]+\.(?:service|timer)", GUIDE)):
        assert (REPOSITORY / "deploy" / "systemd" / unit).is_file()
