# The chart as `helm install` and registries take it, but without the time of packing.
{
  lib,
  runCommand,
  kubernetes-helm,
}:
let
  source = import ./source.nix { inherit lib; };
  # The chart has alerts and dashboards by symbolic links.
  charts = source.only [
    ../deploy/helm
    ../deploy/grafana
    ../deploy/prometheus
  ];
in
runCommand "netmon-chart-${source.package.version}" { nativeBuildInputs = [ kubernetes-helm ]; } ''
  mkdir "$out"
  tar --create --directory ${charts}/deploy/helm --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner \
    --mode=u=rwX,go=rX --dereference --exclude-from=${charts}/deploy/helm/netmon/.helmignore netmon | gzip -n >"$out/netmon-${source.package.version}.tgz"
  helm lint "$out"/*.tgz
  helm template netmon "$out"/*.tgz >/dev/null
''
