# Static binaries of musl for both architectures, from either: { x86_64, aarch64 }.
{ lib, pkgsCross }:
let
  # nixpkgs has no elfutils for pkgsStatic: its programs load libraries. libelf alone does not, so it is taken from the musl
  # set, without the shared ones that the linker would prefer, and without what it would need in turn.
  libelf =
    musl:
    (musl.elfutils.override { enableDebuginfod = false; }).overrideAttrs (old: {
      configureFlags = old.configureFlags ++ [ "--without-zstd" ];
      postInstall = (old.postInstall or "") + ''
        rm "$out"/lib/lib*.so*
      '';
    });
in
lib.mapAttrs (_: musl: musl.pkgsStatic.netmon.override { elfutils = libelf musl; }) {
  x86_64 = pkgsCross.musl64;
  aarch64 = pkgsCross.aarch64-multiplatform-musl;
}
