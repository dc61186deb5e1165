{ pkgs, ... }:
let
  app = name: description: {
    type = "app";
    program = "${pkgs.netmon}/bin/${name}";
    meta = { inherit description; };
  };
in
{
  default = app "netmon" "Watch this host (root)";
  cli = app "netmon-cli" "Ask the running agent";
}
