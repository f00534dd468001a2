//! Examples of the subcommands, for `--help` and the manual pages. A page of a subcommand below has those
//! that begin with its name.

pub(super) const WHOAMI: &str = "Examples:
  hostbadge whoami
  hostbadge whoami --json | jq -r .spiffe_id
  hostbadge whoami --socket unix:///run/hostbadge/agent.sock";

pub(super) const TOKEN: &str = "Examples:
  hostbadge token https://api.example.com
  hostbadge token https://api.example.com --scope docs.read --ttl 60s
  hostbadge token https://api.example.com --json | jq -r .expires_in
  hostbadge token https://api.example.com --agent researcher --file token.jwt
  hostbadge token https://api.example.com --wait-approval 10m
  hostbadge token https://api.example.com --watch /run/researcher/token";

pub(super) const APPROVE: &str = "Examples:
  hostbadge approve list
  hostbadge approve show 4f0c1d9a2e
  hostbadge approve yes 4f0c1d9a2e
  hostbadge approve no 4f0c1d9a2e --reason \"not before the release\"";

pub(super) const CERTIFICATE: &str = "Examples:
  hostbadge certificate --output svid
  hostbadge certificate --csr request.pem --ttl 10m > cert.pem
  hostbadge certificate --watch /run/researcher/svid";

pub(super) const PROVE: &str = "Examples:
  hostbadge token https://api.example.com --bind dpop --output token
  hostbadge prove dpop GET https://api.example.com/v1/items --token-file token --output proof
  curl -H @proof -H \"Authorization: DPoP $(cat token)\" https://api.example.com/v1/items
  hostbadge prove http-signature POST https://api.example.com/v1/items --body item.json
  hostbadge prove client-assertion --audience https://login.example.com";

pub(super) const DELEGATE: &str = "Examples:
  hostbadge delegate fetch --cgroup fetch --grant \"https://api.example.com docs.read\"
  hostbadge delegate build --cgroup /system.slice/researcher.service/build --no-grants --ttl 10m";

pub(super) const RUN: &str = "Examples:
  hostbadge run --as fetch --file token=https://api.example.com -- ./fetch.py
  hostbadge run --as fetch --grant \"https://api.example.com docs.read\" -- ./fetch.py
  hostbadge run --as fetch --env API_TOKEN=https://api.example.com -- ./fetch.py
  hostbadge run --as researcher/sub/run-alice --file token=https://api.example.com -- ./report.py
  hostbadge run --check --as fetch --keep GIT_TOKEN -- ./fetch.py";

pub(super) const ATTEST: &str = "Examples:
  hostbadge attest --nonce AAAAAAAAAAAAAAAAAAAAAA --output evidence.json
  hostbadge attest --nonce AAAAAAAAAAAAAAAAAAAAAA --format eat";

pub(super) const INTROSPECT: &str = "Examples:
  hostbadge introspect --audience https://api.example.com < token.jwt
  hostbadge introspect --once --audience https://api.example.com < token.jwt";

pub(super) const NONCE: &str = "Examples:
  hostbadge nonce
  hostbadge nonce --from-daemon
  hostbadge nonce use AAAAAAAAAAAAAAAAAAAAAA";

pub(super) const STATUS: &str = "Examples:
  hostbadge status
  hostbadge status --json | jq -r .tpm.state";

pub(super) const AGENT: &str = "Examples:
  hostbadge agent list
  hostbadge agent list --json | jq -r '.[] | select(.activity.live_tokens > 0).name'
  hostbadge agent show researcher
  hostbadge agent check /etc/hostbadge/agents.d
  hostbadge agent lint --usage=90d --allow no-owner
  hostbadge agent reload
  hostbadge agent approve 3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b8550
  hostbadge agent offboard researcher --reason \"replaced\" > researcher.receipt";

pub(super) const KEY: &str = "Examples:
  hostbadge key list
  hostbadge key rotate
  hostbadge key rotate --now
  hostbadge key recovery --output recovery-key.txt
  hostbadge key recover < recovery-key.txt
  hostbadge key accept";

pub(super) const POLICY: &str = "Examples:
  hostbadge policy check /etc/hostbadge/policies
  hostbadge policy show --agent researcher
  hostbadge policy why researcher --audience https://api.example.com --scope docs.write
  hostbadge policy why researcher --certificate --at 2026-11-28T10:00:00Z --posture changed
  hostbadge policy why --record 1204
  hostbadge policy schema";

pub(super) const POSTURE: &str = "Examples:
  hostbadge posture show
  hostbadge posture diff
  hostbadge posture accept --digest 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  hostbadge posture accept --recovery < recovery-key.txt";

pub(super) const ENROLL: &str = "Examples:
  hostbadge enroll request --output request.json
  hostbadge enroll challenge request.json --roots makers/ --trust-domain example.org --secret secret.json -o challenge.json
  hostbadge enroll activate challenge.json --output answer.json
  hostbadge enroll certify --request request.json --secret secret.json --answer answer.json --ca-cert ca.pem --ca-key ca-key.pem -o host.pem
  hostbadge enroll install host.pem";

pub(super) const EXPORT: &str = "Examples:
  hostbadge export jwks --output jwks.json
  hostbadge export discovery --output openid-configuration.json
  hostbadge export bundle --output bundle.json
  hostbadge export status-list /srv/id.example.org/v1/status-list";

pub(super) const VERIFY: &str = "Examples:
  hostbadge verify token - --jwks jwks.json --audience https://api.example.com < token.jwt
  hostbadge verify token eyJ... --jwks jwks.json --issuer https://example.org --json
  hostbadge verify token - --jwks jwks.json --status-list list.jwt < token.jwt
  hostbadge verify evidence evidence.json --nonce AAAAAAAAAAAAAAAAAAAAAA --roots makers/
  hostbadge verify evidence evidence.json --nonce AAAAAAAAAAAAAAAAAAAAAA --ca-cert ca.pem --pcrs pcrs.toml --require boot-event-log
  hostbadge verify receipt researcher.receipt --jwks jwks.json --agent researcher
  hostbadge verify audit /var/log/hostbadge/audit --ak 000b9c...
  hostbadge verify audit copy/ --ak kept/checkpoint.keys --known last.note --save-note last.note";

pub(super) const TENANT: &str = "Examples:
  hostbadge tenant list
  hostbadge tenant rm acme";

pub(super) const ANOMALY: &str = "Examples:
  hostbadge anomaly list
  hostbadge anomaly show researcher
  hostbadge anomaly resume researcher";

pub(super) const REVOKE: &str = "Examples:
  hostbadge revoke token < token.jwt
  hostbadge revoke agent researcher --reason \"its key was in a log\"
  hostbadge revoke signal signal.jwt
  hostbadge revoke list
  hostbadge revoke lift agent researcher";

pub(super) const LEAK: &str = "Examples:
  hostbadge leak < leaked.txt
  hostbadge leak --agent --reason \"in a public repository\" < token.jwt
  hostbadge leak --jti 0198f0a2-3c4d-7e5f-8a6b-9c0d1e2f3a4b --dry-run";

pub(super) const HYGIENE: &str = "Examples:
  hostbadge hygiene
  hostbadge hygiene /home /srv --json | jq -r .findings[].path
  hostbadge hygiene . --no-environ --no-units --no-histories";

pub(super) const SELFTEST: &str = "Examples:
  hostbadge selftest
  hostbadge selftest --json | jq '.attempts[] | select(.result == \"hole\")'
  hostbadge selftest --only stranger --only smuggled-headers
  systemctl start hostbadge-selftest.service";

pub(super) const REVIEW: &str = "Examples:
  hostbadge review
  hostbadge review --since 90d --diff
  hostbadge review --json --html review.html > review.json
  hostbadge review --agent researcher --apply
  hostbadge review sign --reviewer \"Ada Lovelace\" --comment \"as narrowed\" review.json";

pub(super) const METRICS: &str = "Examples:
  hostbadge metrics
  hostbadge metrics --agents 20 --json | jq '.[] | select(.name == \"hostbadge_agent_granted_total\")'
  hostbadge metrics --admin-socket /run/hostbadge/metrics.sock --textfile /run/hostbadge-metrics/hostbadge.prom";

pub(super) const TOP: &str = "Examples:
  hostbadge top
  hostbadge top --once
  hostbadge top --json | jq -r '.alerts[]'";

pub(super) const AUDIT: &str = "Examples:
  hostbadge audit tail
  hostbadge audit tail -n 100 --json | jq .event
  hostbadge audit tail --tenant acme --since 1h
  hostbadge audit tail --follow
  hostbadge audit prove 1234 > record.proof";
