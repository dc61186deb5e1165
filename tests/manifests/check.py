"""Checks of deploy/kubernetes and deploy/helm/netmon. Run by tests/manifests/run, which installs what this needs."""

import copy
import functools
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib
import unittest

import jsonschema
import kubernetes_validate
import yaml
from referencing import Registry, Resource

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/netmon"
RULES = ROOT / "deploy/kubernetes/overlays/prometheus-operator/prometheusrule.yaml"
KUSTOMIZE = ROOT / "deploy/kubernetes"
VALUES = ROOT / "tests/manifests/values"
NETMON = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug/netmon"
# The newest that k8s-openapi knows, and the oldest that Chart.yaml admits.
KUBERNETES = ("1.37.0", "1.25.0")
# Overlays, and the chart's values that mean the same.
SAME = {".": None, "overlays/node-scope": "node-scope", "overlays/prometheus-operator": "prometheus-operator"}
# Labels that helm's conventions ask for and kustomize has no use for.
HELM_LABELS = {
    "helm.sh/chart",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/version",
}


def run(*command, **options):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, **options)


def output(*command, **options):
    done = run(*command, **options)
    assert done.returncode == 0, f"{command}: {done.stderr or done.stdout}"
    return done.stdout


def objects(text):
    return [each for each in yaml.safe_load_all(text) if each is not None]


def rendered(values=None, *flags):
    more = ["--values", VALUES / f"{values}.yaml"] if values else []
    return objects(output("helm", "template", "netmon", CHART, "--namespace", "netmon", *more, *flags))


@functools.cache
def kustomized(folder):
    return objects(output("kubectl", "kustomize", KUSTOMIZE / folder))


def workloads():
    return [each for path in sorted(KUSTOMIZE.glob("workloads/*.yaml")) for each in objects(path.read_text())]


@functools.cache
def everything():
    """All that is rendered anywhere: name and objects."""
    charts = [None] + sorted(path.stem for path in VALUES.glob("*.yaml"))
    overlays = ["."] + sorted(str(path.parent.relative_to(KUSTOMIZE)) for path in KUSTOMIZE.glob("overlays/*/kustomization.yaml"))
    found = {f"chart {values or 'defaults'}": rendered(values) for values in charts}
    found |= {f"kustomize {folder}": kustomized(folder) for folder in overlays}
    return found | {"workloads": workloads()}


def one(found, kind):
    match, = [each for each in found if each["kind"] == kind]
    return match


def title(each):
    return f"{each['kind']} {each['metadata']['name']}"


def pod_spec(each):
    """The pod in an object, if there is one, and its labels."""
    if each["kind"] == "Pod":
        return each["spec"], each["metadata"].get("labels", {})
    spec = each.get("spec", {})
    spec = spec.get("jobTemplate", {}).get("spec", spec) if each["kind"] == "CronJob" else spec
    template = spec.get("template") if isinstance(spec, dict) else None
    return (template["spec"], template.get("metadata", {}).get("labels", {})) if template else (None, {})


def schemas(version):
    return pathlib.Path(kubernetes_validate.__file__).parent / f"kubernetes-json-schema/v{version}-local-strict"


@functools.cache
def definitions(version):
    resource = Resource.from_contents(json.loads((schemas(version) / "_definitions.json").read_text()))
    return Registry().with_resource("/api/_definitions.json", resource).crawl()


@functools.cache
def published(version, name):
    """The published OpenAPI schema of a kind; unknown fields are errors."""
    schema = json.loads((schemas(version) / f"{name}.json").read_text())
    return jsonschema.Draft202012Validator(schema, registry=definitions(version))


@functools.cache
def operator_kind(kind):
    """The schema of the Prometheus Operator's resource definition; unknown fields are errors here, too."""
    models = importlib.import_module("cloudcoil.models.prometheus_operator.v1")
    schema = getattr(models, kind).model_json_schema(by_alias=True)
    for part in [schema, *schema["$defs"].values()]:
        if "properties" in part:
            part["additionalProperties"] = False
    return jsonschema.Draft202012Validator(schema)


def validator(each, version):
    group = each["apiVersion"]
    if group == "monitoring.coreos.com/v1":
        return operator_kind(each["kind"])
    # rbac.authorization.k8s.io/v1 is called rbac-v1 there.
    short = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", group)
    return published(version, f"{each['kind'].lower()}-{short}")


def without_helm(each):
    each = copy.deepcopy(each)
    for label in HELM_LABELS:
        each["metadata"].get("labels", {}).pop(label, None)
    return each


def rules_object():
    """Prometheus' rules as the Prometheus Operator wants them."""
    rules = (ROOT / "deploy/prometheus/rules.yaml").read_text()
    head = """# Made of deploy/prometheus/rules.yaml by `tests/manifests/run --write`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: netmon-agent
  labels:
    app.kubernetes.io/name: netmon
    app.kubernetes.io/component: agent
spec:
"""
    return head + "".join("  " + line if line.strip() else line for line in rules.splitlines(keepends=True))


def configuration(found):
    """The file, the arguments and the environment that a DaemonSet gives the agent."""
    daemonset = one(found, "DaemonSet")
    container, = daemonset["spec"]["template"]["spec"]["containers"]
    told = {"spec.nodeName": "node-a", "status.podIP": "192.0.2.1", "limits.memory": str(1 << 30)}
    environment = {}
    for variable in container["env"]:
        source = variable.get("valueFrom", {})
        reference = source.get("fieldRef", {}).get("fieldPath") or source.get("resourceFieldRef", {}).get("resource")
        if reference or "value" in variable:
            environment[variable["name"]] = told[reference] if reference else variable["value"]
    if daemonset["spec"]["template"]["spec"].get("enableServiceLinks", True):
        for service in [each["metadata"]["name"] for each in found if each["kind"] == "Service"]:
            environment[service.upper().replace("-", "_") + "_SERVICE_HOST"] = "10.96.0.1"
    files = [each["data"]["netmon.yaml"] for each in found if each["kind"] == "ConfigMap" and "netmon.yaml" in each["data"]]
    return files[0] if files else None, container["args"], environment


def check_config(file, arguments, environment):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as written:
        written.write(file or "{}")
        written.flush()
        arguments = [each.replace("/etc/netmon/netmon.yaml", written.name) for each in arguments]
        return run(NETMON, *arguments, "--check-config", env=environment)


class Manifests(unittest.TestCase):
    maxDiff = None

    def for_each(self, check, kind=None):
        """Every object on its own, so that one failure hides no other."""
        for name, found in everything().items():
            for each in [each for each in found if kind in (None, each["kind"])]:
                with self.subTest(f"{name}: {title(each)}"):
                    check(each)

    def test_every_object_fits_the_published_schema(self):
        def check(each):
            for version in KUBERNETES:
                errors = [f"{error.json_path}: {error.message}" for error in validator(each, version).iter_errors(each)]
                self.assertEqual(errors, [], version)

        self.for_each(check)

    def test_the_schemas_refuse_what_is_wrong(self):
        def errors(kind, *change):
            found = rendered("prometheus-operator")
            wrong = one(found, kind)
            *path, last, value = change
            functools.reduce(lambda part, key: part[key], path, wrong)[last] = value
            return list(validator(wrong, KUBERNETES[0]).iter_errors(wrong))

        self.assertTrue(errors("DaemonSet", "spec", "template", "spec", "hostNetwrk", True))
        self.assertTrue(errors("DaemonSet", "spec", "template", "spec", "hostNetwork", "yes"))
        self.assertTrue(errors("ClusterRole", "rules", 0, "verb", ["get"]))
        self.assertTrue(errors("PodMonitor", "spec", "podMetricsEndpoints", 0, "ports", "metrics"))
        self.assertFalse(errors("PodMonitor", "spec", "podMetricsEndpoints", 0, "port", "metrics"))

    def test_chart_and_kustomize_make_the_same_objects(self):
        for folder, values in SAME.items():
            with self.subTest(folder):
                # The namespace is helm's own business (--create-namespace), the test pod helm's alone.
                kustomize = {title(each): each for each in kustomized(folder) if each["kind"] != "Namespace"}
                chart = {title(each): without_helm(each) for each in rendered(values, "--no-hooks")}
                self.assertEqual(set(kustomize), set(chart))
                for name, each in kustomize.items():
                    self.assertEqual(yaml.safe_dump(each), yaml.safe_dump(chart[name]), name)

    def test_the_operators_rules_are_those_of_prometheus(self):
        written = RULES.read_text()
        self.assertEqual(written, rules_object(), "tests/manifests/run --write makes it anew")
        rules = yaml.safe_load((ROOT / "deploy/prometheus/rules.yaml").read_text())
        self.assertEqual(one(rendered("prometheus-operator"), "PrometheusRule")["spec"], rules)

    def test_the_dashboards_are_those_of_grafana(self):
        files = {path.name: json.loads(path.read_text()) for path in ROOT.glob("deploy/grafana/*.json")}
        self.assertTrue(files)
        for found in (rendered("prometheus-operator"), kustomized("overlays/prometheus-operator")):
            data = [each["data"] for each in found if each["kind"] == "ConfigMap" and "-dashboard-" in each["metadata"]["name"]]
            made = {name.removeprefix("netmon-"): json.loads(text) for each in data for name, text in each.items()}
            self.assertEqual(made, files)

    def test_a_packed_chart_is_whole(self):
        with tempfile.TemporaryDirectory() as folder:
            output("helm", "package", CHART, "--destination", folder)
            packed, = pathlib.Path(folder).glob("*.tgz")
            flags = ["--namespace", "netmon", "--values", VALUES / "prometheus-operator.yaml"]
            self.assertEqual(objects(output("helm", "template", "netmon", packed, *flags)), rendered("prometheus-operator"))

    def test_the_chart_lints(self):
        for values in VALUES.glob("*.yaml"):
            output("helm", "lint", "--strict", CHART, "--values", values)

    def test_the_chart_says_what_to_do_next(self):
        notes = output("helm", "install", "netmon", CHART, "--namespace", "netmon", "--dry-run=client")
        self.assertIn("kubectl -n netmon exec daemonset/netmon-agent -- netmon-cli status", notes)

    def test_wrong_values_are_refused(self):
        wrong = {
            "scope=zone": "/scope",
            "scop=node": "scop",
            "metrics.port=0": "/metrics/port",
            "metrics.port=nine": "/metrics/port",
            "metrics.podMonitor.interval=30": "/metrics/podMonitor/interval",
            "image.pullPolicy=Sometimes": "/image/pullPolicy",
            "image.digest=sha256:abc": "/image/digest",
            "capabilities={ALL}": "/capabilities",
            "capabilities={BPF}": "/capabilities",
            "capabilities={CAP_BPF,NET_ADMIN}": "/capabilities",
            "capabilities={SYS_ADMIN,NET_ADMIN}": "need runAsUser: 0",
            "resources.limits.memory=lots": "/resources/limits/memory",
            "updateStrategy.rollingUpdate.maxUnavailable=200%": "/updateStrategy/rollingUpdate/maxUnavailable",
            "seccompProfile.type=None": "/seccompProfile/type",
            "fullnameOverride=Net_Mon": "/fullnameOverride",
            "config.export.prometheus.port=1": "set metrics.port instead",
            "config.export.prometheus.enabled=false": "the probes need the metrics port",
            "config.kubernetes.scope=node": "set scope instead",
            "config.kubernetes.events=false": "set events instead",
            "existingConfigMap=a,config.log.level=debug": "take one",
            "metrics.podMonitor.enabled=true,metrics.serviceMonitor.enabled=true": "scraped twice",
            "metrics.serviceMonitor.enabled=true,metrics.service.enabled=false": "needs metrics.service.enabled",
        }
        for values, said in wrong.items():
            with self.subTest(values):
                done = run("helm", "template", "netmon", CHART, "--set", values)
                self.assertNotEqual(done.returncode, 0)
                self.assertIn(said, done.stderr.replace("'", ""))

    def test_every_value_is_in_the_schema(self):
        def walk(values, schema, path):
            schema = definitions[schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
            for key, value in values.items():
                known = schema.get("properties", {})
                if known:
                    self.assertIn(key, known, path)
                    if isinstance(value, dict):
                        walk(value, known[key], f"{path}.{key}")

        schema = json.loads((CHART / "values.schema.json").read_text())
        definitions = schema["definitions"]
        walk(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "values")

    def test_versions_are_those_of_the_crate(self):
        version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self.assertEqual((chart["version"], chart["appVersion"]), (version, version))
        images = yaml.safe_load((KUSTOMIZE / "base/kustomization.yaml").read_text())["images"]
        self.assertEqual([image["newTag"] for image in images], [version])

    def test_images_are_pinned(self):
        def check(each):
            spec, _ = pod_spec(each)
            for container in (spec or {}).get("containers", []) + (spec or {}).get("initContainers", []):
                self.assertRegex(container["image"], r"(:[0-9][0-9A-Za-z._-]*|@sha256:[0-9a-f]{64})$")

        self.for_each(check)

    def test_scripts_are_shell(self):
        def check(each):
            spec, _ = pod_spec(each)
            for container in (spec or {}).get("containers", []):
                if container.get("command", [])[:2] == ["sh", "-c"]:
                    self.assertEqual(run("sh", "-n", input=container["command"][2]).stderr, "")

        self.for_each(check)

    def test_selectors_find_their_pods(self):
        for name, found in everything().items():
            pods = [labels for spec, labels in map(pod_spec, found) if spec]
            for each in found:
                selector = each.get("spec", {}).get("selector", {})
                wanted = selector.get("matchLabels", selector) if each["kind"] != "ServiceMonitor" else {}
                # The workload has one with nothing behind it.
                if wanted and each["metadata"]["name"] != "empty":
                    with self.subTest(f"{name}: {title(each)}"):
                        self.assertTrue(any(wanted.items() <= labels.items() for labels in pods), wanted)

    def test_nothing_is_privileged(self):
        def check(each):
            spec, _ = pod_spec(each)
            for container in (spec or {}).get("containers", []):
                context = container["securityContext"]
                self.assertFalse(spec.get("hostPID") or spec.get("hostIPC") or context.get("privileged"))
                self.assertEqual(context["capabilities"]["drop"], ["ALL"])
                self.assertIs(context["allowPrivilegeEscalation"], False)
                self.assertIs(context["readOnlyRootFilesystem"], True)
                for mount in [volume for volume in spec.get("volumes", []) if "hostPath" in volume]:
                    writable = [at for at in container["volumeMounts"] if at["name"] == mount["name"] and not at.get("readOnly")]
                    self.assertEqual(writable, [])

        self.for_each(check)

    def test_the_agent_has_three_capabilities_and_is_not_root(self):
        for name in ("chart defaults", "kustomize ."):
            context = one(everything()[name], "DaemonSet")["spec"]["template"]["spec"]["containers"][0]["securityContext"]
            self.assertEqual(context["capabilities"]["add"], ["BPF", "NET_ADMIN", "PERFMON"])
            self.assertEqual((context["runAsUser"], context["runAsNonRoot"]), (65534, True))
            self.assertEqual(context["seccompProfile"], {"type": "RuntimeDefault"})

    def test_roles_only_read_but_for_events(self):
        def check(each):
            for rule in each["rules"]:
                allowed = {"create", "patch"} if rule["resources"] == ["events"] else {"get", "list", "watch"}
                self.assertLessEqual(set(rule["verbs"]), allowed)
                self.assertNotIn("*", rule["apiGroups"] + rule["resources"])

        self.for_each(check, "ClusterRole")

    def test_a_changed_configmap_arrives_without_a_restart(self):
        def check(each):
            template = each["spec"]["template"]
            mounts = template["spec"]["containers"][0]["volumeMounts"]
            self.assertEqual([mount for mount in mounts if "subPath" in mount], [])
            # Neither may anything in the template hang on what is in it.
            self.assertNotIn("checksum", json.dumps(template))

        self.for_each(check, "DaemonSet")

    def test_the_port_is_one_everywhere(self):
        for name, found in everything().items():
            for each in [each for each in found if each["kind"] == "DaemonSet"]:
                with self.subTest(name):
                    _, _, environment = configuration(found)
                    port = int(environment["NETMON_EXPORT_PROMETHEUS_PORT"])
                    container = each["spec"]["template"]["spec"]["containers"][0]
                    self.assertEqual([each["containerPort"] for each in container["ports"]], [port])
                    for service in [each for each in found if each["kind"] == "Service"]:
                        self.assertEqual([each["port"] for each in service["spec"]["ports"]], [port])
                        told = service["metadata"].get("annotations", {}).get("prometheus.io/port", str(port))
                        self.assertEqual(told, str(port))

    def test_the_agent_accepts_its_configuration(self):
        for name, found in everything().items():
            if any(each["kind"] == "DaemonSet" for each in found):
                with self.subTest(name):
                    done = check_config(*configuration(found))
                    self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_variables_of_services_would_stop_the_agent(self):
        found = copy.deepcopy(rendered())
        one(found, "DaemonSet")["spec"]["template"]["spec"]["enableServiceLinks"] = True
        done = check_config(*configuration(found))
        self.assertEqual(done.returncode, 2, "enableServiceLinks: false is needed no more?")

    def test_kubectl_set_env_switches_features(self):
        settings = {"NETMON_FEATURES_PROTOCOL_DETECTION": "false", "NETMON_FEATURES_LATENCY_TRACKING": "true"}
        settings |= {"NETMON_SAMPLING_RATE": "0.1", "NETMON_EXPORT_PROMETHEUS_TOP_PAIRS": "50"}
        daemonset = yaml.safe_dump(one(kustomized("."), "DaemonSet"))
        pairs = [f"{name}={value}" for name, value in settings.items()]
        changed = objects(output("kubectl", "set", "env", "--local", "-f", "-", "-o", "yaml", *pairs, input=daemonset))
        file, arguments, environment = configuration(changed)
        self.assertLessEqual(settings.items(), environment.items())
        self.assertEqual(check_config(file, arguments, environment).stderr, "")
        environment["NETMON_FEATURES_PROTOCOL_DETECTON"] = "true"
        refused = check_config(file, arguments, environment)
        self.assertEqual(refused.returncode, 2)
        self.assertIn("NETMON_FEATURES_PROTOCOL_DETECTON", refused.stderr)


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        RULES.write_text(rules_object())
        sys.exit()
    if not NETMON.exists():
        sys.exit(f"manifests: {NETMON} is missing; build it with `cargo build`")
    unittest.main()
