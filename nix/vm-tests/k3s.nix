# One node of k3s with the image and the manifests as they are shipped; the flows between two pods must have their names.
{ self, image, ... }:
{
  name = "netmon-k3s";

  nodes.machine =
    { pkgs, ... }:
    let
      # Stands for every image that the pods need: nothing is downloaded.
      tools = pkgs.dockerTools.buildImage {
        name = "test.local/tools";
        tag = "local";
        copyToRoot = pkgs.buildEnv {
          name = "tools";
          paths = [
            pkgs.busybox
            pkgs.tini
          ];
        };
        config.Entrypoint = [
          "/bin/tini"
          "--"
        ];
        config.Cmd = [
          "/bin/sleep"
          "inf"
        ];
      };
      pod = name: command: {
        apiVersion = "v1";
        kind = "Pod";
        metadata = { inherit name; };
        spec.containers = [
          {
            name = "main";
            image = "test.local/tools:local";
            imagePullPolicy = "Never";
            inherit command;
          }
        ];
      };
    in
    {
      virtualisation.memorySize = 2048;
      virtualisation.diskSize = 4096;
      environment.systemPackages = [ pkgs.python3 ];
      environment.etc = {
        "netmon.tar".source = image;
        "manifests.yaml".source = "${
          self.packages.${pkgs.stdenv.hostPlatform.system}.manifests
        }/netmon.yaml";
        "pods.json".text = builtins.toJSON {
          apiVersion = "v1";
          kind = "List";
          items = [
            (pod "client" [
              "sleep"
              "inf"
            ])
            (pod "server" [
              "sh"
              "-c"
              "mkdir -p /www && echo hello >/www/index.html && exec httpd -f -p 8080 -h /www"
            ])
          ];
        };
      };
      services.k3s = {
        enable = true;
        role = "server";
        images = [ tools ];
        extraFlags = [
          "--disable=coredns,local-storage,metrics-server,servicelb,traefik"
          "--pause-image=test.local/tools:local"
        ];
      };
    };

  testScript = ''
    machine.wait_for_unit("k3s.service")
    machine.wait_until_succeeds("k3s kubectl get serviceaccount default")
    machine.succeed("k3s ctr images import /etc/netmon.tar")
    machine.succeed("k3s kubectl apply -f /etc/manifests.yaml -f /etc/pods.json")
    machine.wait_until_succeeds("k3s kubectl -n netmon rollout status --timeout=5s daemonset/netmon-agent", timeout=300)
    machine.succeed("k3s kubectl wait --timeout=120s --for=condition=Ready pod/client pod/server")

    address = machine.succeed("k3s kubectl get pod server -o jsonpath={.status.podIP}").strip()
    cli = "k3s kubectl -n netmon exec daemonset/netmon-agent -- netmon-cli"
    print(machine.succeed(f"{cli} status"))
    print(machine.succeed(
        "python3 ${../../tests/scenarios/flows} --pods client server"
        f" --on 'k3s kubectl exec client --' --cli '{cli}' {address}"
    ))
  '';
}
