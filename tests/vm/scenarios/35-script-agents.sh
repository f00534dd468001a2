# A Python agent by its files: fs-verity of the kernel, IMA, and the files of its unit.
# limit: 400 s

need hostbadge e2fsprogs fsverity
audience=https://api.example.com
agents=/etc/hostbadge/agents.d
python=$(readlink -f /usr/bin/python3)
modprobe loop

# Creates a file system and mounts it at /opt/NAME: filesystem NAME OPTION…
filesystem() {
    local name=$1
    shift
    truncate -s 16M "/var/lib/$name.img"
    # fs-verity needs blocks of the size of a page.
    mke2fs -q -t ext4 -b 4096 "$@" "/var/lib/$name.img"
    mkdir -p "/opt/$name"
    mount -o loop "/var/lib/$name.img" "/opt/$name"
}
filesystem plain
filesystem protected -O verity

useradd --system scripts 2>/dev/null || true
cat >/opt/plain/main.py <<PY
import socket
body = "audience=$audience"
agent = socket.socket(socket.AF_UNIX)
agent.connect("/run/hostbadge/agent.sock")
head = "POST /v1/token HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n" % len(body)
agent.sendall((head + "Content-Type: application/x-www-form-urlencoded\r\n\r\n" + body).encode())
answer = b""
while part := agent.recv(65536):
    answer += part
print(answer.split(b"\r\n\r\n", 1)[1].decode())
PY
cp /opt/plain/main.py /opt/protected/main.py

# The unit of the agent, whose program is this file.
runs() {
    cat >/etc/systemd/system/script.service <<UNIT
[Unit]
StartLimitIntervalSec=0
[Service]
Type=oneshot
User=scripts
ExecStart=$python $1
StandardOutput=truncate:/run/script.answer
UNIT
    systemctl daemon-reload
}
# Registers the agent: register CONDITIONS FILE… with the present digests of the files.
register() {
    local conditions=$1 file entries=
    shift
    for file; do entries+="\"$file\" = \"$(sha256sum "$file" | cut -d' ' -f1)\", "; done
    cat >"$agents/script.toml" <<TOML
name = "script"
[match]
user = "scripts"
unit = "script.service"
files = { ${entries%, } }
$conditions
[[grant]]
audience = "$audience"
TOML
    show hostbadge agent reload
}
# What the agent's program gets.
answer() {
    systemctl start script.service
    cat /run/script.answer
}
claims() { answer | jq -r .access_token | cut -d. -f2 | tr -- '-_' '+/' | { base64 -d 2>/dev/null || true; }; }
methods() { claims | jq -c .attest_methods; }
unit_digest() { answer | grep -oE 'their digest is [0-9a-f]{64}' | cut -d' ' -f4; }

say "Without fs-verity, a file counts by its digest"
wait_for "the issuer" hostbadge status
runs /opt/plain/main.py
register "" /opt/plain/main.py
expect '["files-sha256"]' methods
refused fsverity enable /opt/plain/main.py

say "With fs-verity, the token says so as soon as it is enabled"
runs /opt/protected/main.py
register "" /opt/protected/main.py
expect '["files-sha256"]' methods
fsverity enable /opt/protected/main.py
expect "sha256:" fsverity measure /opt/protected/main.py
expect '["files-sha256","files-fs-verity"]' methods
refused sh -c 'echo "# more" >>/opt/protected/main.py'
says "not permitted"

say "One file without it is enough to say nothing"
echo "x = 1" >/opt/protected/tools.py
register "" /opt/protected/main.py /opt/protected/tools.py
expect '["files-sha256"]' methods
fsverity enable /opt/protected/tools.py
expect '["files-sha256","files-fs-verity"]' methods

say "A file that is replaced is refused, with fs-verity or without"
cp /opt/protected/main.py /root/main.py
sed '1i # Another program.' /root/main.py >/opt/protected/new.py
fsverity enable /opt/protected/new.py
mv /opt/protected/new.py /opt/protected/main.py
expect "/opt/protected/main.py has changed" answer
says invalid_client
says "$(sha256sum /opt/protected/main.py | cut -d' ' -f1)"

say "The same content without fs-verity counts by its digest alone"
cp /root/main.py /opt/protected/new.py
mv /opt/protected/new.py /opt/protected/main.py
expect '["files-sha256"]' methods
fsverity enable /opt/protected/main.py
expect '["files-sha256","files-fs-verity"]' methods

say "Its unit counts with its drop-ins"
register "unit_sha256 = \"$(printf '%064d' 0)\"" /opt/protected/main.py
digest=$(unit_digest)
register "unit_sha256 = \"$digest\"" /opt/protected/main.py
expect '["files-sha256","files-fs-verity","unit-sha256"]' methods
mkdir -p /etc/systemd/system/script.service.d
printf '[Service]\nEnvironment=PYTHONPATH=/tmp\n' >/etc/systemd/system/script.service.d/path.conf
systemctl daemon-reload
sleep 1.5
expect "the files of unit script.service have changed" answer
rm -r /etc/systemd/system/script.service.d
systemctl daemon-reload
sleep 1.5
expect '"unit-sha256"' methods

if [ -e /sys/kernel/security/ima/policy ]; then
    say "IMA: what the kernel measured is in a list that the TPM proves"
    mkdir -p /etc/systemd/system/hostbadged.service.d
    cp /usr/share/hostbadge/executables.conf /etc/systemd/system/hostbadged.service.d/
    systemctl daemon-reload
    systemctl restart hostbadged.service
    wait_for "the issuer" hostbadge status
    measured="exe = \"$python\"
measured = true"
    register "$measured" /opt/protected/main.py
    expect '"error"' answer
    # The kernel takes one policy for each boot. Only what the agent's user reads is measured.
    printf 'measure func=BPRM_CHECK mask=MAY_EXEC uid=%s\nmeasure func=FILE_CHECK mask=MAY_READ uid=%s\n' \
        "$(id -u scripts)" "$(id -u scripts)" >/root/ima-policy
    cat /root/ima-policy >/sys/kernel/security/ima/policy
    all_methods() { [ "$(methods)" = '["ima","files-sha256","files-ima","files-fs-verity"]' ]; }
    wait_for "the proven list" all_methods

    say "A file that nobody has read is not measured"
    echo "# not read" >/opt/protected/unread.py
    fsverity enable /opt/protected/unread.py
    register "$measured" /opt/protected/main.py /opt/protected/unread.py
    expect '["ima","files-sha256","files-fs-verity"]' methods
    rm -r /etc/systemd/system/hostbadged.service.d
    systemctl daemon-reload
    systemctl restart hostbadged.service
else
    say "This kernel has no IMA"
fi

rm "$agents/script.toml" /etc/systemd/system/script.service
systemctl daemon-reload
wait_for "the reload" hostbadge agent reload --allow-empty
umount /opt/plain /opt/protected
rm /var/lib/plain.img /var/lib/protected.img
