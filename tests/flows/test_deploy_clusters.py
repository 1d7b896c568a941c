"""What deploy/ ships for Kubernetes and Slurm: by Kubernetes' own schemas, Prefect's own rendering, and bash."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from flows.cli import app
from flows.runners import parse_unit
from flows.settings import Settings, variable

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES, SLURM = DEPLOY / "kubernetes", DEPLOY / "slurm"
SCRIPTS = sorted(SLURM.glob("*.sbatch"))
VERSIONS = ["1.29", "1.37"]
KNOWN_TO_PREFECT = {"parallelism": 1, "completions": 1}
"""Prefect's worker refuses a template without these in the pod's specification, where Kubernetes ignores them."""
every_version = pytest.mark.parametrize("version", VERSIONS)
every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)


def template() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((KUBERNETES / "base-job-template.json").read_text())
    return found


def rendered(**given: Any) -> dict[str, Any]:
    """The job that a flow run becomes: the template as Prefect fills it in, with what a deployment says."""
    from prefect.utilities.templating import apply_values
    from prefect.workers.base import BaseJobConfiguration

    base = template()
    defaults = BaseJobConfiguration._get_base_config_defaults(base["variables"]["properties"])
    filled: dict[str, Any] = apply_values(base["job_configuration"], {**defaults, **given}, remove_notset=True)
    return filled


def job_of(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest as Kubernetes gets it: with the command that Prefect's worker puts there, and a name."""
    job: dict[str, Any] = json.loads(json.dumps(configuration["job_manifest"]))
    spec = job["spec"]["template"]["spec"]
    assert {name: spec.pop(name) for name in KNOWN_TO_PREFECT} == KNOWN_TO_PREFECT
    spec["containers"][0].setdefault("args", ["prefect", "flow-run", "execute"])
    job["metadata"]["generateName"] = "run-"
    return job


def documents(name: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all((KUBERNETES / name).read_text()) if one]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod that is asked for, by who asks."""
    yield "flow run", job_of(rendered())["spec"]["template"]["spec"]
    yield "flow run on a GPU", job_of(rendered(gpus=1, node_selector={"gpu": "yes"}))["spec"]["template"]["spec"]
    (job,) = documents("ray-job.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    yield "ray head", cluster["headGroupSpec"]["template"]["spec"]
    for group in cluster["workerGroupSpecs"]:
        yield f"ray {group['groupName']}", group["template"]["spec"]
    yield "ray submitter", job["spec"]["submitterPodTemplate"]["spec"]


every_pod = pytest.mark.parametrize(("who", "pod"), list(pods()), ids=lambda one: one if isinstance(one, str) else "")

# Kubernetes


@every_version
@pytest.mark.parametrize("gpus", [None, 2, "1"])
def test_kubernetes_takes_the_job_of_a_flow_run(version: str, gpus: int | str | None) -> None:
    given = {} if gpus is None else {"gpus": gpus, "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]}
    job = job_of(rendered(**given))
    kubernetes_validate.validate(job, version, strict=True)
    limits = job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits.get("nvidia.com/gpu") == gpus
    assert "{{" not in json.dumps(job)


@every_version
def test_kubernetes_takes_what_lies_beside_it(version: str) -> None:
    found = documents("base.yaml")
    for one in found:
        kubernetes_validate.validate(one, version, strict=True)
    assert [one["kind"] for one in found] == ["Namespace", "PersistentVolumeClaim", "ServiceAccount"]


@every_pod
def test_kubernetes_takes_every_pod(who: str, pod: dict[str, Any]) -> None:
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod}
    kubernetes_validate.validate(whole, VERSIONS[-1], strict=True)


@every_pod
def test_every_pod_is_restricted_and_names_what_is_there(who: str, pod: dict[str, Any]) -> None:
    """As the namespace enforces it (the Pod Security Standard `restricted`), and nothing but volumes to write to."""
    security = pod["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"]) == (True, 1000)
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    named = {one["metadata"]["name"]: one["kind"] for one in documents("base.yaml")}
    assert named[pod["serviceAccountName"]] == "ServiceAccount"
    volumes = {one["name"]: one for one in pod["volumes"]}
    claims = [one["persistentVolumeClaim"]["claimName"] for one in volumes.values() if "persistentVolumeClaim" in one]
    assert all(named[claim] == "PersistentVolumeClaim" for claim in claims)
    for container in pod["containers"]:
        own = container["securityContext"]
        assert (own["allowPrivilegeEscalation"], own["readOnlyRootFilesystem"]) == (False, True)
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        mounts = [(one["mountPath"], one["name"]) for one in container["volumeMounts"]]
        assert {name for _, name in mounts} == set(volumes)
        assert {"/tmp", "/home/widen"} <= {path for path, _ in mounts}
        if "workingDir" in container:
            assert any(container["workingDir"].startswith(path) for path, _ in mounts)


def test_the_image_is_run_as_the_user_that_it_has() -> None:
    image = (DEPLOY / "Dockerfile").read_text()
    assert "useradd --create-home --uid 1000 widen" in image
    # Its entry point is `widen`: a flow run must go round it.
    container = job_of(rendered())["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == ["/usr/bin/env"]


def test_every_variable_of_the_template_is_used_and_every_used_one_is_there() -> None:
    found = template()
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(found["job_configuration"])))
    assert used == set(found["variables"]["properties"])


def test_what_a_deployment_says_reaches_the_job() -> None:
    job = job_of(
        rendered(cpu="32", memory="64Gi", workspace_claim="other", cache_size="1Ti", secret="theirs", namespace="n")
    )
    spec = job["spec"]["template"]["spec"]
    container = spec["containers"][0]
    assert container["resources"] == {
        "requests": {"cpu": "32", "memory": "64Gi"}, "limits": {"cpu": "32", "memory": "64Gi"},
    }  # fmt: skip
    assert spec["volumes"][0]["persistentVolumeClaim"]["claimName"] == "other"
    assert spec["volumes"][1]["emptyDir"] == {"sizeLimit": "1Ti"}
    assert container["envFrom"] == [{"secretRef": {"name": "theirs", "optional": True}}]
    assert job["metadata"]["namespace"] == "n"


def test_no_file_holds_a_secret_or_a_setting_that_is_none() -> None:
    known = {variable(name) for name in Settings.model_fields}
    for path in [*KUBERNETES.iterdir(), *SCRIPTS]:
        text = path.read_text()
        named = set(re.findall(r"\bWIDEN_[A-Z_]+", text))
        assert named <= known, path
        held = re.findall(r"(?i)(?:password|secret_key|auth_string|token)[=:] *([^\s\\]+)", text)
        assert all(
            re.match(r"^([A-Z:]+|\$\(.*|token|false|true|widen:\$RAY_AUTH_TOKEN)$", value.strip("\"'`,"))
            for value in held
        ), (
            path,
            held,
        )


def test_values_of_the_worker_name_the_pool_and_a_secret_by_reference() -> None:
    values = yaml.safe_load((KUBERNETES / "worker-values.yaml").read_text())
    worker = values["worker"]
    assert worker["config"]["type"] == "kubernetes"
    assert worker["config"]["workPool"] in (DEPLOY.parent / "docs" / "scaling.md").read_text()
    assert worker["basicAuth"] == {"enabled": True, "existingSecret": "prefect-login"}
    assert worker["containerSecurityContext"]["readOnlyRootFilesystem"] is True
    assert re.match(r"3-python3\.11-kubernetes$", worker["image"]["prefectTag"])


def command_of(text: str) -> tuple[str, dict[str, str]]:
    """A `widen` command line: its name and its options."""
    words = text.split()
    assert words[0] == "widen"
    options = {words[place]: words[place + 1] for place in range(len(words) - 1) if words[place].startswith("--")}
    return words[1], options


def options_of(name: str) -> set[str]:
    import typer.main

    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    return {option for parameter in command.params for option in parameter.opts}


def test_the_ray_job_merges_by_options_that_there_are() -> None:
    (job,) = documents("ray-job.yaml")
    name, options = command_of(job["spec"]["entrypoint"])
    assert set(options) <= options_of(name)
    assert (options["--runner"], options["--address"]) == ("ray", "auto")
    asked = parse_unit(options["--unit"])
    cluster = job["spec"]["rayClusterSpec"]
    (worker,) = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    assert asked["cpus"] <= int(worker["resources"]["limits"]["cpu"])
    assert asked["memory"] <= int(worker["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    from importlib.metadata import version

    assert cluster["rayVersion"] == version("ray")


@pytest.mark.slow
def test_a_prefect_server_takes_the_pool_and_a_deployment_into_it(tmp_path: Path) -> None:
    """With the commands of docs/scaling.md; a variable that the template does not allow is refused."""
    from tests.flows.machine import PREFECT, asked_of, bare_environment, prefect_server

    environment = bare_environment(tmp_path)

    def prefect(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*PREFECT, *arguments]
        return subprocess.run(
            command, cwd=DEPLOY.parent, env=environment, capture_output=True, text=True, check=False, timeout=300
        )

    pool = ["work-pool", "create", "widen-kubernetes", "--type", "kubernetes"]
    deploy = ["deploy", "--name", "merge", "--pool", "widen-kubernetes", "--job-variable"]
    with prefect_server(environment, tmp_path / "server.log"):
        made = prefect(*pool, "--base-job-template", str(KUBERNETES / "base-job-template.json"))
        assert made.returncode == 0, made.stdout + made.stderr
        assert asked_of(environment, "/work_pools/widen-kubernetes")["base_job_template"] == template()
        taken = prefect(*deploy, "gpus=1")
        assert taken.returncode == 0, taken.stdout + taken.stderr
        found = asked_of(environment, "/deployments/name/merge/merge")
        assert (found["work_pool_name"], found["job_variables"]["gpus"]) == ("widen-kubernetes", "1")
        refused = prefect(*deploy, "gpus=none")
        assert refused.returncode != 0
        assert "[1-9][0-9]*" in refused.stderr


# Slurm


@every_script
def test_bash_takes_the_script_and_it_stops_at_the_first_fault(script: Path) -> None:
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    text = script.read_text()
    assert text.startswith("#!/bin/bash\n")
    assert "\nset -euo pipefail\n" in text


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck here")
@every_script
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    done = subprocess.run(["shellcheck", "--shell=bash", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@every_script
def test_every_option_for_sbatch_stands_before_the_first_command(script: Path) -> None:
    lines = script.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    places = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert places
    assert max(places) < first
    assert all(re.match(r"#SBATCH --[a-z-]+=\S+$", lines[number]) for number in places)


@every_script
def test_every_variable_is_set_or_has_a_default(script: Path) -> None:
    """What Slurm may leave unset has a default, or is required by name."""
    code = "\n".join(line for line in script.read_text().splitlines() if not line.startswith("#"))
    read = re.findall(r"\$\{?(?:#|!)?([A-Za-z_]\w*)(:?[-=?+])?", code)
    own = set(re.findall(r"(?:^|[\s(;])(?:local |export )?([A-Za-z_]\w*)\+?=", code)) | {
        "nodes",
        "count",
        "list",
        "PATH",
    }
    required = set(re.findall(r"\$\{([A-Z_]+):\?", code))
    bare = {name for name, default in read if not default}
    assert bare - own - required == set()
    assert {name for name, default in read if default} | required >= {"VENV"}


@every_script
def test_the_script_calls_widen_by_options_that_there_are(script: Path) -> None:
    code = re.sub(r"\\\n\s*", " ", script.read_text())
    (call,) = re.findall(
        r"(?<=[\s])widen (?:merge|\"\$@\") [^\n]*", "\n".join(one for one in code.splitlines() if one[:1] != "#")
    )
    assert set(re.findall(r"(--[a-z]+)", call)) <= options_of("merge")


@every_script
def test_a_script_without_arguments_says_how_to_call_it(script: Path) -> None:
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"usage: sbatch {script.name} ")


# A token; else who is waited for has begun when it answers: Ray's two steps, then Prefect's server too.
PYTHON_STAND_IN = """
if [[ $1 == -c ]]; then echo feedface; exit; fi
cat > /dev/null
case $2 in */health) begun=3 ;; *) begun=2 ;; esac
until (($(grep -c "" "${0%/bin/*}/sleeps" 2> /dev/null) >= begun)); do command -p sleep 0.02; done
"""


def run_ray_script(place: Path, widen: str, *arguments: str, wait: float = 60) -> subprocess.CompletedProcess[str]:
    """ray.sbatch as Slurm runs it, with stand-ins that note what they are called with, for a job of three nodes."""
    tools_folder = place / "bin"
    tools_folder.mkdir()
    tools = {
        "scontrol": 'printf "n1\\nn2\\nn3\\n"',
        # A step: what it was asked for, then the command itself, as in an allocation.
        "srun": f'echo "srun $*" >> {place}/calls; while [[ $1 == --* ]]; do shift; done; exec "$@"',
        "hostname": "echo 10.0.0.1 10.0.0.2",
        "ray": f'echo "token ${{RAY_AUTH_TOKEN:-none}} $RAY_AUTH_MODE" >> {place}/tokens; exec sleep 60',
        "prefect": f'echo "$PREFECT_SERVER_API_AUTH_STRING $PREFECT_API_URL" >> {place}/tokens; exec sleep 60',
        "python": PYTHON_STAND_IN,
        "sleep": f'[[ $1 == 5 ]] && exit 0; echo $$ >> {place}/sleeps; exec {shutil.which("sleep")} "$@"',
        "widen": widen,
    }
    for name, text in tools.items():
        (tools_folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (tools_folder / name).chmod(0o755)
    given = {
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_GPUS_ON_NODE": "2",
    }
    path = f"{tools_folder}:/usr/local/bin:/usr/bin:/bin"
    environment = {"PATH": path, "VENV": str(place), "SCRATCH": str(place), "UNIT": "cpus=2", "PATIENCE": "5", **given}
    command = ["bash", str(SLURM / "ray.sbatch"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=wait)


def test_the_ray_script_makes_a_cluster_of_its_nodes_and_ends_it(tmp_path: Path) -> None:
    done = run_ray_script(tmp_path, 'echo "ran $*"', "merge", "a recipe.yaml", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert "ran merge a recipe.yaml --out out --runner ray --address 10.0.0.1:20770 --unit cpus=2" in done.stdout
    calls = (tmp_path / "calls").read_text().splitlines()
    head, workers = (next(line for line in calls if found in line) for found in ("--head", "--address=10.0.0.1:20770"))
    assert "--nodelist=n1 " in head
    assert "--nodes=2 --ntasks=2 --ntasks-per-node=1 --nodelist=n2,n3 " in workers
    assert all("--num-cpus=8 --num-gpus=2" in line for line in (head, workers))
    assert f"rm -rf -- {tmp_path}/ray-77" in calls[-1]
    assert any(
        "prefect server start --host 10.0.0.1 --port 20776" in line and "--nodelist=n1 " in line for line in calls
    )
    told = {"token feedface token", "widen:feedface http://10.0.0.1:20776/api"}
    assert set((tmp_path / "tokens").read_text().splitlines()) == told
    assert "feedface" not in "\n".join(calls) + done.stdout + done.stderr
    for pid in (tmp_path / "sleeps").read_text().split():
        assert not Path(f"/proc/{pid}").exists()


def test_the_ray_script_ends_as_the_command_does(tmp_path: Path) -> None:
    assert run_ray_script(tmp_path, "exit 3", "merge", "r.yaml", "--out", "out").returncode == 3
