"""Files for the programs that keep services running: systemd, compose, and nginx for those who have it already.

Knows nothing of keys. Every service runs without privileges, sees its own folder and nothing else it can write to, and
has the variables that keep it from calling home. The command is the same in all of them: ``medseg federated ...``.
"""

from __future__ import annotations

from pathlib import Path

from medseg.federation.federation_file import Federation
from medseg.federation.gateway import FLEET, MOST_BODY
from medseg.federation.offline import OFFLINE

_SYSTEMD = """\
# Copy to /etc/systemd/system, correct the paths and the user, then: systemctl enable --now {unit}
[Unit]
Description={description}
After=network-online.target
Wants=network-online.target

[Service]
User=medseg
WorkingDirectory={folder}
ExecStart=/opt/medseg/bin/medseg {command}
Restart=on-failure
RestartSec=15
KillMode=control-group
TimeoutStopSec=60
{variables}
UMask=0077
NoNewPrivileges=true
PrivateTmp=true
PrivateDevices={private_devices}
ProtectHome=read-only
ProtectSystem=strict
ProtectKernelTunables=true
ProtectKernelModules=true
ProtectControlGroups=true
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictSUIDSGID=true
LockPersonality=true
ReadWritePaths={writable}

[Install]
WantedBy=multi-user.target
"""

_DOCKERFILE = """\
# An image that needs no network when it runs. First, in a clone of medseg: pip wheel --no-deps -w THIS_FOLDER .
# then, here: docker build -t medseg .
FROM python:3.11-slim
COPY medseg-*.whl /tmp/
RUN pip install --no-cache-dir "$(echo /tmp/medseg-*.whl)[federated]" && useradd --create-home medseg
USER medseg
ENTRYPOINT ["medseg"]
"""

_DOCKERIGNORE = """\
# Neither keys nor data get into an image.
*
!medseg-*.whl
"""

_COMPOSE = """\
services:
  {service}:
    image: medseg
    build: .
    command: [{command}]
    restart: on-failure
    init: true
    read_only: true
    user: "${{UID:-1000}}:${{GID:-1000}}"
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    tmpfs: [/tmp]
    environment:
{variables}
    volumes:
{volumes}
{ports}"""

_NGINX = """\
# For those who have nginx: instead of the gateway of 'medseg federated serve' (then start it with gateway=false).
# A SuperLink asks no credential of whoever starts runs or takes over tasks, so nothing but these routes may be open.
server {{
    listen {port} ssl;
    server_name {host};
    ssl_certificate     {folder}/coordinator/server.crt;
    ssl_certificate_key {folder}/coordinator/server.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    client_max_body_size {megabytes}m;
    proxy_read_timeout 120s;
    proxy_request_buffering off;
    # allow 192.0.2.0/24; deny all;   (the hospitals' networks)

    location ~ ^/v1/fleet/({routes})$ {{
        limit_except POST {{ deny all; }}
        proxy_pass https://127.0.0.1:{superlink_port};
        proxy_ssl_verify on;
        proxy_ssl_name localhost;
        proxy_ssl_trusted_certificate {folder}/coordinator/ca.crt;
    }}
    location = /health {{
        proxy_pass https://127.0.0.1:{superlink_port};
        proxy_ssl_verify on;
        proxy_ssl_name localhost;
        proxy_ssl_trusted_certificate {folder}/coordinator/ca.crt;
    }}
    location / {{ return 404; }}
}}
"""

_JOIN = """\
# Site '{name}' of a federation

1. Read `site.toml` and write into it where your dataset lies; it decides what may be asked of you and what may leave.
2. In a clone of medseg, of the version that the coordinator has:
   `python3 -m venv /opt/medseg && /opt/medseg/bin/pip install -c constraints.txt ".[federated]"`
3. Read the app whose SHA-256 `site.toml` approves, two short files in `federated/` of the clone;
   `medseg federated status site=site.toml` says whether the number is that of the package you installed.
4. `chmod 600 node.key` (if you made the key yourself: put it here under that name).
5. `medseg federated check-site site=site.toml labels=labels.yaml channels=[NAME]` shows what is wrong with the data or
   unlike what was agreed on, and the few codes that would be told.
6. Open outgoing TLS to {coordinator}, and nothing incoming. HTTPS_PROXY is followed.
7. `medseg federated join site=site.toml` takes part until you stop it; `medseg-site.service` and `compose.yaml` keep it
   running.
8. For secure sums `medseg federated pin-keys site=site.toml` makes a key. Send `work/secure_sum/public.pem` to the
   other hospitals as `{name}.pem`, not through the coordinator; `keys=DIR` added to the command pins theirs.
9. `medseg federated status site=site.toml` shows what was asked, what left, and whether the log was changed. Why
   something failed stands in `work/errors.log`, which nobody else sees.
"""


def write_coordinator_files(folder: Path, federation: Federation, home: Path) -> None:
    """Write the coordinator's service files; ``home`` is where the federation's folder will lie."""
    unit = "medseg-coordinator.service"
    _write(
        folder / unit,
        _SYSTEMD.format(
            unit=unit,
            description=f"Coordinator of the federation {federation.name}",
            folder=home,
            command=f"federated serve folder={home}",
            variables=_for_systemd(),
            private_devices="true",
            writable=home,
        ),
    )
    _write_image(folder)
    _write(
        folder / "compose.yaml",
        _COMPOSE.format(
            service="coordinator",
            command='federated, serve, "folder=/federation", "listen=0.0.0.0"',
            variables=_for_compose(),
            volumes=f'      - "{home}:/federation"',
            ports=f'    ports: ["{federation.port}:{federation.port}"]\n',
        ),
    )
    _write(
        folder / "nginx.conf",
        _NGINX.format(
            port=federation.port,
            host=federation.host,
            folder=home,
            megabytes=MOST_BODY // 2**20,
            routes="|".join(FLEET),
            superlink_port=federation.superlink_port,
        ),
    )


def write_site_files(folder: Path, name: str, coordinator: str) -> None:
    """Write a hospital's service files and a short list of what to do."""
    unit, home = "medseg-site.service", "/srv/medseg"
    _write(
        folder / unit,
        _SYSTEMD.format(
            unit=unit,
            description=f"Site {name} of a federation",
            folder=home,
            command=f"federated join site={home}/site.toml",
            variables=_for_systemd(),
            private_devices="false",  # a GPU is a device
            writable=home,
        ),
    )
    _write_image(folder)
    _write(
        folder / "compose.yaml",
        _COMPOSE.format(
            service="site",
            command='federated, join, "site=/site/site.toml"',
            variables=_for_compose(),
            volumes='      - ".:/site"\n      - "/path/to/dataset:/path/to/dataset:ro"',
            ports="",
        ),
    )
    _write(folder / "README.md", _JOIN.format(name=name, coordinator=coordinator))


def _write_image(folder: Path) -> None:
    _write(folder / "Dockerfile", _DOCKERFILE)
    _write(folder / ".dockerignore", _DOCKERIGNORE)


def _for_systemd() -> str:
    return "\n".join(f"Environment={name}={value}" for name, value in OFFLINE.items())


def _for_compose() -> str:
    return "\n".join(f'      {name}: "{value}"' for name, value in OFFLINE.items())


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
