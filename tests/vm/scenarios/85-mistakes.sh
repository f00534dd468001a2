# Mistakes of administrators are reported by the command or the journal; correcting them is enough to recover.
# limit: 300 s

need hostbadge
journal() { journalctl -u hostbadged.service -t hostbadged -n 30 -o cat --no-pager; }
restart() { systemctl restart hostbadged.service; }

say "An unknown key in the configuration"
cp /etc/hostbadge/hostbadged.toml /root/good.toml
echo 'trust_domian = "example.org"' >>/etc/hostbadge/hostbadged.toml
refused hostbadged --check
says "hostbadged.toml:"
says "trust_domian"
refused restart
wait_for "the reason in the journal" bash -c 'journalctl -u hostbadged.service -n 30 -o cat | grep -q trust_domian'
cp /root/good.toml /etc/hostbadge/hostbadged.toml

say "A duration without its unit"
printf '[tpm]\ndeadline = "5"\n' >>/etc/hostbadge/hostbadged.toml
refused hostbadged --check
says "must be a duration"
cp /root/good.toml /etc/hostbadge/hostbadged.toml

say "A configuration that the service may not read"
chmod 600 /etc/hostbadge/hostbadged.toml
refused restart
wait_for "the reason in the journal" bash -c 'journalctl -u hostbadged.service -n 10 -o cat | grep -q "cannot be read"'
chmod 644 /etc/hostbadge/hostbadged.toml
systemctl reset-failed hostbadged.service
restart
wait_for "the issuer" hostbadge status

say "A world-writable agents.d"
chmod o+w /etc/hostbadge/agents.d
refused hostbadge agent reload
says "chmod o-w"
chmod o-w /etc/hostbadge/agents.d

say "A symbolic link as agents.d"
mv /etc/hostbadge/agents.d /etc/hostbadge/agents.real
ln -s agents.real /etc/hostbadge/agents.d
refused hostbadge agent reload
says "symbolic link"
rm /etc/hostbadge/agents.d
mv /etc/hostbadge/agents.real /etc/hostbadge/agents.d
show hostbadge agent reload --allow-empty

say "A TPM device with other permissions"
chown root:root /dev/tpmrm0
chmod 600 /dev/tpmrm0
restart
refused hostbadge status
says "absent"
says "tss"
chown tss:tss /dev/tpmrm0
chmod 660 /dev/tpmrm0
wait_for "the issuer, with no restart" hostbadge status

say "libtss2 without its device module"
part=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 'libtss2-tcti-device0*' | sed -n 's/^installed //p')
dpkg --remove --force-depends "$part"
restart
refused hostbadge status
says "libtss2-tcti-device0"
dpkg --install /var/lib/vm-packages/"$part"_*.deb
wait_for "the issuer, with no restart" hostbadge status

say "No journal"
systemctl stop systemd-journald.socket systemd-journald-dev-log.socket systemd-journald.service
restart
expect "standard error" hostbadge status
systemctl start systemd-journald.socket systemd-journald-dev-log.socket systemd-journald.service
restart
wait_for "the journal" bash -c 'hostbadge status | grep -q journald'
