{ pkgs, ... }:
{
  default = pkgs.mkShell {
    inputsFrom = [ pkgs.netmon ];
    packages = with pkgs; [
      bpftools
      cargo-deny
      clippy
      deadnix
      iproute2
      iperf3
      llvmPackages.clang-tools
      nixfmt
      rust-analyzer
      rustfmt
      shellcheck
    ];
    shellHook = ''
      export NETMON_CLANG=${pkgs.writeShellScript "clang-bpf" ''
        exec ${pkgs.llvmPackages.clang-unwrapped}/bin/clang "$@" \
          -idirafter ${pkgs.lib.getLib pkgs.llvmPackages.clang-unwrapped}/lib/clang/*/include \
          -idirafter ${pkgs.linuxHeaders}/include
      ''}
    '';
  };
}
