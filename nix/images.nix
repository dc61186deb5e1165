# OCI images of the static binaries, as one archive: skopeo copy oci-archive:RESULT docker://REGISTRY/netmon:VERSION
{
  lib,
  runCommand,
  python3,
  static,
}:
let
  inherit (import ./source.nix { inherit lib; }) package;
in
{
  # Names out of `static`.
  of =
    architectures:
    runCommand "netmon-${package.version}-oci.tar" { nativeBuildInputs = [ python3 ]; } ''
      python3 ${./oci.py} --version ${package.version} --licence ${../LICENSE} --output "$out" \
        ${lib.concatMapStringsSep " " (name: "${name}=${static.${name}}") architectures}
    '';
}
