//! Examples that `--help` shows.

pub const ALL: &str = "Examples:
  krunctl check
  krunctl run --image alpine:3 -- uname -r
  echo 'uname -r; ls /' | krunctl sh
  krunctl create --name web --image nginx:1 -p 8080:80
  krunctl start web";

pub const RUN: &str = "Examples:
  krunctl run --root /srv/alpine -- /bin/sh -c 'uname -r; exit 42'
  krunctl run --image alpine:3 -it -- /bin/sh
  krunctl run --image ./app.tar -p 8080:80 -v /srv/data:/data -e TOKEN --timeout 5m
  krunctl run --image alpine:3 --allow-host example.com:443 -- wget -qO- https://example.com";

pub const SH: &str = "Examples:
  printf 'echo hello\\nuname -r\\n' | krunctl sh
  krunctl sh -v --keep-going -e TOKEN build.txt";

pub const CREATE: &str = "Examples:
  krunctl create --name web --image nginx:1 -p 8080:80
  krunctl start web";

pub const EXEC: &str = "Examples:
  krunctl exec web -- nginx -t
  krunctl exec web                      a shell, on a terminal
  krunctl exec -i web -- tee /tmp/file <file
  krunctl exec --sandbox 3f2a91         an operator's shell in a VM of containerd's";

pub const CP: &str = "Examples:
  krunctl cp ./index.html web:/usr/share/nginx/html
  krunctl cp web:/var/log/nginx .";

pub const IMAGE: &str = "Examples:
  krunctl image pull registry.example.com/app:1
  krunctl image import ./app.tar --name app:1
  krunctl image prune";

pub const LOGS: &str = "Examples:
  krunctl logs -f web";

pub const COMPLETIONS: &str = "Examples:
  krunctl completions bash >/etc/bash_completion.d/krunctl";

pub const POOL: &str = "Examples:
  krunctl pool
  systemctl enable --now krun-pool";

pub const PS: &str = "Examples:
  krunctl ps
  krunctl ps --format json | jq -r '.[] | select(.boot == \"warm\") | .id'";

pub const INSPECT: &str = "Examples:
  krunctl inspect 3f2a91
  krunctl inspect shop/db-0             a pod, by its namespace and name";

pub const METRICS: &str = "Examples:
  krunctl metrics --listen 127.0.0.1:9477
  systemctl enable --now krun-metrics";

pub const MAN: &str = "Examples:
  krunctl man /usr/local/share/man/man1";
