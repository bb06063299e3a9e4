"""compose.yaml, redis.conf and the systemd units: every command, port, path and setting they name is real."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from deployment_files import REPOSITORY, check_command, last, stages

from deploy import redis_local
from server.settings import Settings

DEPLOY = REPOSITORY / "deploy"
SYSTEMD = DEPLOY / "systemd"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
SETTINGS = {f"MDREC_{name.upper()}" for name in Settings.model_fields}
UNITS = sorted(SYSTEMD.glob("mdrec-*"))


def test_the_built_images_exist() -> None:
    for name in ("nightly", "collector", "gateway"):
        build = SERVICES[name]["build"]
        context = (DEPLOY / build["context"]).resolve()
        assert context == REPOSITORY
        assert build["target"] in stages(context / build["dockerfile"])


def test_every_command_is_one_mdrec_accepts() -> None:
    shell, flag, script = SERVICES["nightly"]["command"]
    assert (shell, flag) == ("sh", "-c")
    script = script.replace("$$", "$")
    assert subprocess.run(["sh", "-n", "-c", script], check=False).returncode == 0
    (night,) = re.findall(r"mdrec [^;]+", script)
    check_command(shlex.split(night))
    mounts = {one.rpartition(":")[0].rpartition(":")[2] for one in SERVICES["nightly"]["volumes"] if one.endswith(":ro")}
    assert shlex.split(night)[-1] in mounts
    check_command(SERVICES["collector"]["command"])
    assert "command" not in SERVICES["gateway"]  # the image's own, checked with the image


def test_every_variable_is_a_setting_or_used_by_the_script() -> None:
    for name, service in SERVICES.items():
        for variable in service.get("environment", {}):
            assert variable in SETTINGS or f"${variable}" in str(service["command"]), f"{name}: {variable}"
    assert {"MDREC_REDIS_URL", "MDREC_OPERATOR_TOKEN"} <= set(SERVICES["gateway"]["environment"])
    for service in ("nightly", "collector", "gateway"):
        assert SERVICES[service]["environment"]["MDREC_REDIS_URL"] == "redis://redis:6379/0"


def test_no_secret_is_written_down_and_no_default_token_exists() -> None:
    assert SERVICES["gateway"]["environment"]["MDREC_OPERATOR_TOKEN"].startswith("${MDREC_OPERATOR_TOKEN:?")


def test_only_the_gateway_is_published_and_only_on_loopback() -> None:
    port = Settings.model_fields["port"].default
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["gateway"]
    assert SERVICES["gateway"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"127.0.0.1:{port}/readyz" in str(SERVICES["gateway"]["healthcheck"]["test"])


def test_the_gateway_cannot_write_its_root_and_has_no_capabilities() -> None:
    gateway = SERVICES["gateway"]
    assert gateway["read_only"] is True and gateway["tmpfs"] == ["/tmp"]
    assert gateway["cap_drop"] == ["ALL"] and "no-new-privileges:true" in gateway["security_opt"]


def test_the_start_order_is_redis_then_a_live_bundle_then_the_gateway() -> None:
    healthy = {"condition": "service_healthy"}
    assert SERVICES["nightly"]["depends_on"] == SERVICES["collector"]["depends_on"] == {"redis": healthy}
    assert SERVICES["gateway"]["depends_on"] == {"redis": healthy, "nightly": healthy}
    assert all("test" in service["healthcheck"] for service in SERVICES.values())


def test_the_night_is_healthy_once_an_alias_exists(tmp_path: Path) -> None:
    from contracts.aliases import Aliases
    from contracts.manifest import MANIFEST

    kind, probe = SERVICES["nightly"]["healthcheck"]["test"]
    image_home = re.search(r"MDREC_HOME=(\S+)", str(stages(DEPLOY / "docker" / "Dockerfile.cpu")["trainer"]))
    assert kind == "CMD-SHELL" and image_home
    here = probe.replace(image_home[1].rstrip("',)"), str(tmp_path))
    assert here != probe
    assert subprocess.run(["sh", "-c", here], capture_output=True, check=False).returncode != 0
    (tmp_path / "bundles" / "b1").mkdir(parents=True)
    (tmp_path / "bundles" / "b1" / MANIFEST).touch()
    Aliases(tmp_path).move("adi+dsfm", "b1")
    assert subprocess.run(["sh", "-c", here], capture_output=True, check=False).returncode == 0


def test_named_volumes_are_declared_and_mounted_files_exist() -> None:
    for service in SERVICES.values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).is_file()
            elif not source.startswith("${"):
                assert source in COMPOSE["volumes"]


def test_redis_starts_with_our_file_and_never_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = SERVICES["redis"]["command"]
    assert f"./redis.conf:{command[1]}:ro" in SERVICES["redis"]["volumes"]
    binary = redis_local.redis_server_binary()
    wrapper = tmp_path / "redis-server"
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.quote(binary)} {shlex.quote(str(DEPLOY / "redis.conf"))} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setattr(redis_local, "redis_server_binary", lambda: str(wrapper))
    ours = ("--appendonly", "--appendfsync", "--save")  # what the file itself must say
    popen = subprocess.Popen

    def without_ours(arguments: list[str], **options: Any) -> subprocess.Popen[bytes]:
        kept = list(arguments)
        for flag in ours:
            at = kept.index(flag)
            del kept[at : at + 2]
        return popen(kept, **options)

    monkeypatch.setattr(redis_local.subprocess, "Popen", without_ours)
    server = redis_local.LocalRedis(tmp_path / "data").start()
    try:
        with redis.Redis.from_url(server.url) as client:
            found = client.config_get("appendonly", "appendfsync", "maxmemory-policy", "save")
        wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "save": ""}
        assert found == wanted
    finally:
        server.stop()


@pytest.mark.parametrize("unit", [one for one in UNITS if one.suffix == ".service"], ids=lambda path: path.name)
def test_a_service_runs_a_real_command_in_a_tight_box(unit: Path) -> None:
    service = _unit(unit)["Service"]
    check_command(shlex.split(service["ExecStart"]))
    for key, value in {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "ProtectHome": "yes", "User": "mdrec"}.items():
        assert service[key] == value
    assert service["EnvironmentFile"] == "/etc/mdrec/mdrec.env"
    name, _, home = service["Environment"].partition("=")
    assert name in SETTINGS and home == f"/var/lib/{service['StateDirectory']}"  # the only place it may write


def test_the_example_environment_names_settings() -> None:
    lines = (SYSTEMD / "mdrec.env.example").read_text().splitlines()
    names = {line.partition("=")[0] for line in lines if line and not line.startswith("#")}
    assert names <= SETTINGS and "MDREC_REDIS_URL" in names


def test_the_timer_starts_the_night() -> None:
    timer = SYSTEMD / "mdrec-nightly.timer"
    assert timer.with_suffix(".service") in UNITS
    assert _unit(timer)["Timer"]["Persistent"] == "true"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd-analyze")
def test_systemd_finds_nothing_to_say(tmp_path: Path) -> None:
    mdrec = Path(sys.executable).with_name("mdrec")
    for unit in UNITS:  # the units name the installed place; here the command stands elsewhere
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/mdrec/.venv/bin/mdrec", str(mdrec)))
    copies_of = [str(tmp_path / unit.name) for unit in UNITS]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *copies_of], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "mdrec" in line]
    assert done.returncode == 0 and not ours, done.stderr


def test_gateway_port_and_image_port_agree() -> None:
    exposed = last(stages(DEPLOY / "docker" / "Dockerfile.cpu")["serve"], "EXPOSE").text
    assert SERVICES["gateway"]["ports"][0].endswith(f":{exposed}")


def _unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return parser
