//! The status of a token, as a relying party reads it.

use hostbadge::clock::Clock;
use hostbadge::verify::{Jwks, Status, StatusList, StatusReference};

use super::Host;
use super::http::claims;

/// Where the status of a token is.
#[track_caller]
pub fn reference(token: &str) -> StatusReference {
    StatusReference::of_claims(&claims(token)).unwrap().expect("a status")
}

/// The path of a token's list on the agent socket. The issuer's URL may end in a tenant.
pub fn list_path(token: &str) -> String {
    let uri = reference(token).uri;
    let issuer = claims(token)["iss"].as_str().unwrap().to_owned();
    let tenant = issuer.find("/tenant/").map_or("", |at| &issuer[at..]);
    format!("{tenant}{}", uri.strip_prefix(&issuer).unwrap())
}

/// The list of a token as the daemon serves it.
#[track_caller]
pub fn served(host: &Host, token: &str) -> String {
    let answer = host.get(&list_path(token));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/statuslist+jwt"));
    answer.text()
}

/// The keys of the issuer of a token.
pub fn keys(host: &Host, token: &str) -> Jwks {
    let issuer = claims(token)["iss"].as_str().unwrap().to_owned();
    let tenant = issuer.find("/tenant/").map_or("", |at| &issuer[at..]);
    Jwks::parse(host.get(&format!("{tenant}/.well-known/jwks.json")).text().as_bytes()).unwrap()
}

/// The status of a token in the list that the daemon serves now.
#[track_caller]
pub fn status(host: &Host, token: &str) -> Status {
    let text = served(host, token);
    let list = StatusList::verify(&text, &keys(host, token), Clock::System.now()).unwrap();
    list.status_of(&reference(token)).unwrap()
}
