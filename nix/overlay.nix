final: _prev: {
  netmon-bpf = final.callPackage ./bpf.nix { };
  netmon = final.callPackage ./package.nix { };
}
