# A data pipeline of units: one dataset each, by tokens that are bound to certificates, until one is decommissioned.
# limit: 300 s

need hostbadge
origin=https://datasets.example.com
install -d /srv/pipeline /run/pipeline
cp $vm/dataset_server.py $vm/fetch_dataset.py $vm/hostbadge.py /srv/pipeline/
useradd --system pipeline 2>/dev/null || true
chown pipeline /run/pipeline
# An agent is a unit of its own, in which its command gets tokens and another one renews its certificate.
register() {
    printf 'name = "%s"\nowner = "data@example.com"\n[match]\nuser = "pipeline"\nunit = "%s.service"\n' "$1" "$1"
    [ "$1" = datasets ] || printf '[[grant]]\naudience = "%s/%s"\nbind = "mtls"\n' "$origin" "$1"
}
unit() {
    local name=$1
    shift
    systemd-run --quiet --collect --unit="$name.service" -p User=pipeline -p RuntimeDirectory="pipeline-$name" \
        -E PYTHONDONTWRITEBYTECODE=1 sh -c "hostbadge certificate --watch /run/pipeline-$name/svid & $*"
}
for name in datasets orders customers; do
    register $name >"/etc/hostbadge/agents.d/$name.toml"
done
show hostbadge agent reload
wait_for "the issuer" hostbadge status

say "Two steps fetch one dataset each from the server"
# The server waits for its certificate, and a step asks each time that it is told to.
unit datasets 'until [ -e /run/pipeline-datasets/svid/cert.pem ]; do sleep 0.2; done
    hostbadge whoami --json >/run/pipeline/datasets.json
    exec python3 /srv/pipeline/dataset_server.py /run/pipeline-datasets/svid 8443 '"$origin"' "orders=of 2026" "customers=of 2025"'
for name in orders customers; do
    unit $name 'while sleep 0.2; do
        [ -e /run/pipeline/'$name'.ask ] || continue
        read -r dataset </run/pipeline/'$name'.ask
        rm /run/pipeline/'$name'.ask
        python3 /srv/pipeline/fetch_dataset.py /run/pipeline-'$name'/svid https://127.0.0.1:8443/$dataset \
            '"$origin"'/$dataset "$(jq -r .spiffe_id /run/pipeline/datasets.json)" >/run/pipeline/'$name'.part 2>&1
        echo "status $?" >>/run/pipeline/'$name'.part
        mv /run/pipeline/'$name'.part /run/pipeline/'$name'.answer
    done'
done
fetch() {
    rm -f "/run/pipeline/$1.answer"
    echo "$2" >"/run/pipeline/$1.new"
    chown pipeline "/run/pipeline/$1.new"
    mv "/run/pipeline/$1.new" "/run/pipeline/$1.ask"
    wait_for "the answer" test -e "/run/pipeline/$1.answer"
    cat "/run/pipeline/$1.answer"
}
wait_for "the server" sh -c 'ss -ltn | grep -q :8443'
for name in orders customers; do
    wait_for "its certificate" test -e "/run/pipeline-$name/svid/cert.pem"
done
expect "of 2026" fetch orders orders
says "status 0"
expect "of 2025" fetch customers customers
expect "invalid_target" fetch orders customers
says "status 1"

say "A decommissioned step gets nothing from then on, and the other one goes on"
expect "to do: remove agent orders" hostbadge agent offboard orders
expect "access_denied" fetch orders orders
says "status 1"
expect "of 2025" fetch customers customers
expect "orders" hostbadge audit query --agent orders --event certificate-issued
systemctl stop orders.service customers.service datasets.service
rm /etc/hostbadge/agents.d/{orders,customers,datasets}.toml
show hostbadge agent reload --allow-empty
