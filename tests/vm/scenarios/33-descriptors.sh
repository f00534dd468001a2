# Descriptors that a local user attaches to what it sends hold up no other caller.
# limit: 300 s

need hostbadge
cat >/etc/hostbadge/agents.d/calm.toml <<TOML
name = "calm"
[match]
user = "daemon"
TOML
expect "calm" hostbadge agent reload

say "Descriptors whose last close waits for an hour hold up nobody"
for socket in agent workload; do
    as nobody python3 "$vm/hostile_descriptors.py" "/run/hostbadge/$socket.sock" 30 >"/run/$socket.count" &
done
for _ in $(seq 30); do
    expect '"calm"' as daemon curl -sS --max-time 10 --unix-socket /run/hostbadge/agent.sock http://localhost/v1/whoami
    sleep 0.5
done
wait_for "the end of the senders" grep -q taken /run/agent.count
wait_for "the end of the senders" grep -q taken /run/workload.count
cat /run/agent.count /run/workload.count
refused grep -q "taken 0, refused 0" /run/agent.count
expect '"calm"' as daemon curl -sS --max-time 10 --unix-socket /run/hostbadge/agent.sock http://localhost/v1/whoami
expect ok hostbadge status
