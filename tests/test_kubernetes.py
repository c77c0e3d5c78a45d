"""deploy/kubernetes.yaml: what its parts say of each other, and that the proxy reads files as Kubernetes mounts them.

That each part is as Kubernetes' own schemas say is checked in test_deploy.py. No cluster is at hand.
"""

from __future__ import annotations

import importlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import TOKEN, Redcap, Wire, ending, eventually, message_request

from claude_proxy.settings.sources import HOME_VARIABLE
from claude_proxy.settings.table import TABLE, Settings

pytestmark = pytest.mark.e2e  # PyYAML comes with the clients

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "deploy" / "kubernetes.yaml").read_text(encoding="utf-8")
KNOWN = {setting.name for setting in TABLE} | {HOME_VARIABLE}


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    """The objects of the manifest, by kind; there is one of each."""
    documents = list(importlib.import_module("yaml").safe_load_all(TEXT))
    made = {document["kind"]: document for document in documents}
    assert len(made) == len(documents)
    return made


def pod(parts: Mapping[str, Any]) -> Any:
    return parts["Deployment"]["spec"]["template"]


def container(parts: Mapping[str, Any]) -> Any:
    (only,) = pod(parts)["spec"]["containers"]
    return only


def test_all_parts_are_there_and_no_autoscaler(parts: dict[str, Any]) -> None:
    """A proxy that waits for models has no load that one could go by."""
    kinds = {"ConfigMap", "Deployment", "Service", "Ingress", "NetworkPolicy", "PodDisruptionBudget"}
    assert parts.keys() == kinds
    assert parts["Deployment"]["spec"]["replicas"] > parts["PodDisruptionBudget"]["spec"]["minAvailable"]


def test_every_selector_finds_the_pods(parts: dict[str, Any]) -> None:
    labels = pod(parts)["metadata"]["labels"]
    (spread,) = pod(parts)["spec"]["topologySpreadConstraints"]
    assert parts["Service"]["spec"]["selector"] == labels
    assert parts["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    for each in (parts["Deployment"]["spec"], parts["PodDisruptionBudget"]["spec"]):
        assert each["selector"]["matchLabels"] == labels
    assert spread["labelSelector"]["matchLabels"] == labels


def test_every_port_leads_to_the_proxy(parts: dict[str, Any]) -> None:
    (port,) = container(parts)["ports"]
    assert str(port["containerPort"]) == parts["ConfigMap"]["data"]["LISTEN_PORT"]
    (of_service,) = parts["Service"]["spec"]["ports"]
    (rule,) = parts["Ingress"]["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    backend = path["backend"]["service"]
    assert (backend["name"], backend["port"]["name"]) == (parts["Service"]["metadata"]["name"], of_service["name"])
    let_in = [each["port"] for entry in parts["NetworkPolicy"]["spec"]["ingress"] for each in entry["ports"]]
    assert [of_service["targetPort"], *let_in] == [port["name"]] * 2


def test_what_it_reads_is_there_or_optional_and_its_settings_exist(parts: dict[str, Any]) -> None:
    (settings, secret) = container(parts)["envFrom"]
    assert settings["configMapRef"]["name"] == parts["ConfigMap"]["metadata"]["name"]
    assert secret["secretRef"]["optional"]
    (volume,) = pod(parts)["spec"]["volumes"]
    (mount,) = container(parts)["volumeMounts"]
    assert all(next(iter(source.values()))["optional"] for source in volume["projected"]["sources"])
    assert (mount["name"], mount["mountPath"]) == (volume["name"], parts["ConfigMap"]["data"][HOME_VARIABLE])
    suggested = dict(re.findall(r"^  # ([A-Z_]+): (\S+)$", TEXT, re.MULTILINE))
    assert suggested.keys() == {"ALLOWED_CLIENTS", "REDCAP_CA_BUNDLE"}
    assert all(path.startswith(f"{mount['mountPath']}/") for path in suggested.values())
    assert parts["ConfigMap"]["data"].keys() <= KNOWN
    assert not any(setting.secret and setting.name in parts["ConfigMap"]["data"] for setting in TABLE)


def test_it_speaks_to_dns_and_redcap_only(parts: dict[str, Any]) -> None:
    policy = parts["NetworkPolicy"]["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    dns, redcap = policy["egress"]
    assert [(each["protocol"], each["port"]) for each in dns["ports"]] == [("UDP", 53), ("TCP", 53)]
    assert [(each["protocol"], each["port"]) for each in redcap["ports"]] == [("TCP", 443)]
    assert all(entry.get("to") for entry in policy["egress"]), "an entry without an address allows every one"
    assert all(entry.get("from") for entry in policy["ingress"])


def test_no_ingress_holds_back_events_or_refuses_large_requests(parts: dict[str, Any]) -> None:
    said = parts["Ingress"]["metadata"]["annotations"]
    limit = f"{Settings('https://redcap.example.edu/api/').max_body_mb}m"
    assert said["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"
    assert said["nginx.org/proxy-buffering"] == "False"
    assert said["nginx.ingress.kubernetes.io/proxy-next-upstream"] == "off"
    assert {said["nginx.ingress.kubernetes.io/proxy-body-size"], said["nginx.org/client-max-body-size"]} == {limit}


# --- files ------------------------------------------------------------------------------------------------------------


def mount(folder: Path, version: str, model: str) -> None:
    """Lay a file down as Kubernetes does: in a new folder, to which a link is turned in one step."""
    (folder / f"..{version}").mkdir(parents=True)
    (folder / f"..{version}" / "claude-proxy.toml").write_text(f'[models]\nmine = "{model}"\n', encoding="utf-8")
    (folder / "..new").symlink_to(f"..{version}")
    (folder / "..new").rename(folder / "..data")
    if not (folder / "claude-proxy.toml").is_symlink():
        (folder / "claude-proxy.toml").symlink_to("..data/claude-proxy.toml")


def test_a_mounted_file_is_found_and_its_change_noticed(redcap: Redcap, parts: dict[str, Any], tmp_path: Path) -> None:
    config, work = tmp_path / "config", tmp_path / "app"
    work.mkdir()
    mount(config, "2026_1", "o1")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    own = {
        "REDCAP_API_URL": redcap.url,
        "LISTEN_HOST": "127.0.0.1",
        "LISTEN_PORT": str(port),
        HOME_VARIABLE: str(config),
    }
    assert own.keys() <= parts["ConfigMap"]["data"].keys()
    environ = {"PATH": os.defpath, **parts["ConfigMap"]["data"], **own}
    command = [sys.executable, "-S", str(ROOT / "claude_api_proxy.py")]
    redcap.let_answer(lambda _: "Yes.")
    with (
        (tmp_path / "log").open("wb") as log,
        ending(subprocess.Popen(command, cwd=work, env=environ, stdout=log, stderr=log), politely=True) as process,
    ):
        eventually(lambda: process.poll() is not None or answers(port))
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert alias(port, redcap) == "o1"
        mount(config, "2026_2", "gpt-4.1")
        eventually(lambda: "settings read again" in (tmp_path / "log").read_text())
        assert alias(port, redcap) == "gpt-4.1"


def answers(port: int) -> bool:
    try:
        with Wire(port) as wire:
            wire.ask("GET", "/health")
            return wire.read_response().status == 200
    except OSError:
        return False


def alias(port: int, redcap: Redcap) -> str:
    """Which alias is asked when a client asks for the model `mine`."""
    with Wire(port) as wire:
        wire.ask("POST", "/v1/messages", message_request({"model": "mine"}), {"x-api-key": TOKEN})
        assert wire.read_response().status == 200
    model: str = redcap.requests[-1].fields["model"]
    return model
