#!/usr/bin/env python3
"""Writes an OCI image of static binaries as one archive: the image of deploy/image/build, made without root.

Only here because nothing in nixpkgs gives a file in an image its capabilities: Nix's store keeps no extended attributes, so they
are written into the layer's archive."""
import argparse
import gzip
import hashlib
import io
import json
import pathlib
import struct
import tarfile

# Permitted: CAP_NET_ADMIN (12), CAP_PERFMON (38), CAP_BPF (39); struct vfs_cap_data, revision 2.
CAPABILITIES = struct.pack("<5I", 0x02000000, 1 << 12, 0, 1 << 6 | 1 << 7, 0)
PLATFORMS = {"x86_64": "amd64", "aarch64": "arm64"}
USER = 65534
CREATED = "1970-01-01T00:00:01Z"


def entry(name, mode, kind=tarfile.REGTYPE, user=0):
    made = tarfile.TarInfo(name)
    made.type, made.mode, made.uid, made.gid, made.mtime = kind, mode, user, user, 1
    return made


def layer(binaries, licence):
    """The layer's archive, uncompressed."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for folder in ("etc", "etc/netmon", "run", "usr", "usr/bin", "usr/share", "usr/share/licenses", "usr/share/licenses/netmon"):
            archive.addfile(entry(folder, 0o755, tarfile.DIRTYPE))
        # The control socket's folder; read-only containers put a volume there.
        archive.addfile(entry("run/netmon", 0o755, tarfile.DIRTYPE, USER))
        for name, source in (("netmon", binaries), ("netmon-cli", binaries), (None, licence)):
            content = (source / "bin" / name if name else source).read_bytes()
            made = entry(f"usr/bin/{name}" if name else "usr/share/licenses/netmon/LICENSE", 0o755 if name else 0o644)
            made.size = len(content)
            if name == "netmon":
                made.pax_headers = {"SCHILY.xattr.security.capability": CAPABILITIES.decode("utf-8", "surrogateescape")}
            archive.addfile(made, io.BytesIO(content))
    return out.getvalue()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", required=True)
    parser.add_argument("--licence", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("binaries", nargs="+", help="ARCHITECTURE=FOLDER with bin/netmon and bin/netmon-cli")
    arguments = parser.parse_args()

    blobs = {}

    def blob(kind, content):
        digest = hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    def document(kind, value):
        return blob(f"{kind}+json", json.dumps(value, sort_keys=True).encode())

    manifests = []
    for each in arguments.binaries:
        architecture, _, folder = each.partition("=")
        plain = layer(pathlib.Path(folder), arguments.licence)
        config = {
            "architecture": PLATFORMS[architecture],
            "os": "linux",
            "created": CREATED,
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(plain).hexdigest()]},
            "config": {
                "User": f"{USER}:{USER}",
                "Env": ["PATH=/usr/bin"],
                "Entrypoint": ["/usr/bin/netmon"],
                "WorkingDir": "/",
                "Labels": {
                    "org.opencontainers.image.title": "netmon",
                    "org.opencontainers.image.description": "Watches every connection of a Linux host or Kubernetes node through eBPF",
                    "org.opencontainers.image.version": arguments.version,
                    "org.opencontainers.image.licenses": "Apache-2.0 AND GPL-2.0-only",
                },
            },
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": document("config.v1", config),
            "layers": [blob("layer.v1.tar+gzip", gzip.compress(plain, mtime=0))],
        }
        platform = {"architecture": PLATFORMS[architecture], "os": "linux"}
        manifests.append(document("manifest.v1", manifest) | {"platform": platform})
    # One image stands for itself, several are an index of their own.
    if len(manifests) == 1:
        top = manifests[0]
    else:
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}
        top = document("index.v1", index)
    # The first is for skopeo and podman, the second for containerd (`ctr images import`, k3s).
    names = {
        "org.opencontainers.image.ref.name": arguments.version,
        "io.containerd.image.name": f"docker.io/library/netmon:{arguments.version}",
    }
    files = {
        "oci-layout": json.dumps({"imageLayoutVersion": "1.0.0"}).encode(),
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [top | {"annotations": names}]}, sort_keys=True).encode(),
    } | {f"blobs/sha256/{digest}": content for digest, content in sorted(blobs.items())}
    with tarfile.open(arguments.output, "w", format=tarfile.PAX_FORMAT) as archive:
        for folder in ("blobs", "blobs/sha256"):
            archive.addfile(entry(folder, 0o755, tarfile.DIRTYPE))
        for name, content in files.items():
            made = entry(name, 0o644)
            made.size = len(content)
            archive.addfile(made, io.BytesIO(content))


if __name__ == "__main__":
    main()
