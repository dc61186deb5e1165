# What `kubectl apply -f` takes: one file for the base and one for each overlay.
{
  lib,
  runCommand,
  kustomize,
}:
let
  source = import ./source.nix { inherit lib; };
  sources = source.only [
    ../deploy/kubernetes
    ../deploy/grafana
  ];
  kubernetes = "${sources}/deploy/kubernetes";
in
runCommand "netmon-manifests-${source.package.version}" { nativeBuildInputs = [ kustomize ]; } ''
  mkdir "$out"
  kustomize build ${kubernetes} >"$out/netmon.yaml"
  for overlay in ${kubernetes}/overlays/*; do
    kustomize build "$overlay" >"$out/netmon-$(basename "$overlay").yaml"
  done
''
