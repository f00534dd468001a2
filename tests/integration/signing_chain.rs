//! What a certificate that lets a host sign has to be, with chains that OpenSSL makes.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hostbadge::clock::{Clock, Timestamp};
use hostbadge::enroll::InstallBundle;
use hostbadge::verify::HostCertificate;

const DOMAIN: &str = "example.org";
const NAME: &str = "subjectAltName=URI:spiffe://example.org\n";
const USAGE: &str = "keyUsage=critical,keyCertSign,cRLSign\n";
const CONSTRAINTS: &str = "basicConstraints=critical,CA:TRUE,pathlen:1\n";

fn openssl(dir: &Path, words: &str) {
    let output = Command::new("openssl").args(words.split_whitespace()).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Verifies the certificate of a host key with these extensions by `ca.pem`, and the file `root` behind it.
fn verified(dir: &Path, extensions: &[&str], root: &str, now: Timestamp) -> Result<(), String> {
    std::fs::write(dir.join("extensions"), extensions.concat()).unwrap();
    openssl(
        dir,
        "x509 -req -in host.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile extensions \
         -out signing.pem",
    );
    // The first certificate is the host's own, of which the chain uses the key alone.
    let mut text = Vec::new();
    for file in ["signing.pem", "signing.pem", root] {
        text.extend(std::fs::read(dir.join(file)).unwrap());
    }
    let bundle = HostCertificate::from_pem(&text).unwrap();
    let chain = InstallBundle::split(bundle.chain()).unwrap().signing_chain.unwrap();
    chain.verify(DOMAIN, now).map_err(|fault| fault.to_string())
}

#[test]
fn a_certificate_that_lets_a_host_sign_has_each_property_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(dir, &format!("req -new {key} -keyout host.key -subj /O=Example/CN=host -out host.csr"));
    for name in ["ca", "other"] {
        openssl(
            dir,
            &format!("req -x509 {key} -days 30 -subj /CN={name} -keyout {name}.key -out {name}.pem"),
        );
    }
    let now = Clock::System.now().after(Duration::from_secs(60));
    let verified = |extensions: &[&str], root, now| verified(dir, extensions, root, now);
    let good = [CONSTRAINTS, USAGE, NAME];
    assert_eq!(verified(&good, "ca.pem", now), Ok(()));
    // Its path length is unbounded.
    assert_eq!(verified(&["basicConstraints=critical,CA:TRUE\n", USAGE, NAME], "ca.pem", now), Ok(()));
    for (extensions, why) in [
        ([CONSTRAINTS, "", NAME], "has no key usage that allows to sign revocation lists"),
        (
            [CONSTRAINTS, "keyUsage=keyCertSign\n", NAME],
            "has no key usage that allows to sign revocation lists",
        ),
        ([CONSTRAINTS, "keyUsage=cRLSign\n", NAME], "its key usage does not allow to sign certificates"),
        (["", USAGE, NAME], "it is not a CA's"),
        (["basicConstraints=CA:FALSE\n", USAGE, NAME], "it is not a CA's"),
        (["basicConstraints=CA:TRUE,pathlen:0\n", USAGE, NAME], "its path length allows fewer CAs below it"),
        ([CONSTRAINTS, USAGE, ""], "is not for the trust domain of this host, spiffe://example.org"),
        (
            [CONSTRAINTS, USAGE, "subjectAltName=URI:spiffe://example.org/host\n"],
            "is not for the trust domain of this host, spiffe://example.org",
        ),
    ] {
        let fault = verified(&extensions, "ca.pem", now).unwrap_err();
        assert!(fault.contains(why), "{extensions:?}: {fault}");
        assert!(fault.starts_with("the certificate that lets this host sign "), "{fault}");
    }
    let later = now.after(Duration::from_secs(31 * 24 * 3600));
    let fault = verified(&good, "ca.pem", later).unwrap_err();
    assert!(fault.contains("CN=host") && fault.contains("it has expired"), "{fault}");
    let fault = verified(&good, "other.pem", now).unwrap_err();
    assert!(fault.contains("its issuer is not the next certificate"), "{fault}");
    let fault = verified(&good, "signing.pem", now).unwrap_err();
    assert!(fault.contains("does not lead to a root in the same file"), "{fault}");
}
