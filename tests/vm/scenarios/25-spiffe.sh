# The SPIFFE Workload API with curl: a gRPC call is an HTTP/2 request whose body has a prefix of five bytes.

need hostbadge
audience=https://api.example.com
printf 'name = "spiffe"\n[match]\nunit = "spiffe.service"\n[[grant]]\naudience = "%s"\n' "$audience" \
    >/etc/hostbadge/agents.d/spiffe.toml
expect "spiffe" hostbadge agent reload

# call METHOD MESSAGE [SECONDS]; the message is in the syntax of printf.
cat >/root/call <<'EOF'
printf '%b' "$2" | curl -sS -N -i --http2-prior-knowledge --max-time "${3:-10}" -o - \
    --unix-socket /run/hostbadge/workload.sock -H 'content-type: application/grpc' -H 'te: trailers' \
    -H 'workload.spiffe.io: true' --data-binary @- "http://localhost/SpiffeWorkloadAPI/$1" | stdbuf -o0 tr -c '[:print:]\n' ' '
EOF
chmod 755 /root
chmod 644 /root/call
call() {
    systemd-run --quiet --wait --pipe --collect "${unit[@]}" bash /root/call "$@"
}
unit=(--unit=spiffe.service -p DynamicUser=yes)
nothing='\0\0\0\0\0'
length=${#audience}
for_audience=$(printf '\\0\\0\\0\\0\\x%x\\x0a\\x%x%s' $((length + 2)) "$length" "$audience")

say "systemd owns the socket, which every user can open"
expect "active" systemctl is-active hostbadge-workload.socket
expect "666" stat -c %a /run/hostbadge/workload.sock

say "A service gets a token"
expect "agent/spiffe" call FetchJWTSVID "$for_audience"
says "grpc-status: 0"
expect "svid-issued" hostbadge audit tail --lines 20

say "It gets a certificate on a stream that stays open"
expect "agent/spiffe" call FetchX509SVID "$nothing" 2
says "issuing CA"
expect "certificate-issued" hostbadge audit tail --lines 20

say "An unknown caller gets PERMISSION_DENIED"
unit=(--unit=other.service -p DynamicUser=yes)
for method in FetchJWTSVID FetchX509SVID FetchX509Bundles FetchWITSVID; do
    expect "grpc-status: 7" call "$method" "$([ $method = FetchJWTSVID ] && echo "$for_audience" || echo "$nothing")"
done

say "The stream of a removed agent ends, and its certificate is revoked"
unit=(--unit=spiffe.service -p DynamicUser=yes)
call FetchX509SVID "$nothing" 30 >/root/stream 2>&1 &
wait_for "the certificate" grep -q "issuing CA" /root/stream
rm /etc/hostbadge/agents.d/spiffe.toml
show hostbadge agent reload --allow-empty
wait $! || true
expect "grpc-status: 7" cat /root/stream
wait_for "the revocation" sh -c "hostbadge audit tail --lines 20 | grep certificates-revoked"
