use super::*;
use crate::wire::openapi;

fn caller(role: AdminSocketRole) -> &'static str {
    match role {
        AdminSocketRole::Monitor => "root, the admin group or the metrics group",
        AdminSocketRole::Admin(_) => "root or the admin group",
        AdminSocketRole::Root(_) => "root only",
    }
}

#[test]
fn routes_are_as_documented() {
    let routes = ROUTES.iter().map(|route| (route.verb.name(), route.path, caller(route.role)));
    openapi::assert_operations("admin socket", routes);
}

#[test]
fn the_guide_says_who_may_call_each_route() {
    const GUIDE: &str = include_str!("../../../docs/guide/administrators.md");
    let rows: Vec<(&str, &str)> = GUIDE
        .lines()
        .filter(|line| line.starts_with("| `GET ") || line.starts_with("| `POST "))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            assert!(cells.len() == 4 && cells.iter().all(|cell| !cell.is_empty()), "{line}");
            (cells[0].trim_matches('`'), cells[2])
        })
        .collect();
    let routes: Vec<String> =
        ROUTES.iter().map(|route| format!("{} {}", route.verb.name().to_uppercase(), route.path)).collect();
    let expected: Vec<(&str, &str)> =
        routes.iter().zip(ROUTES).map(|(text, route)| (text.as_str(), caller(route.role))).collect();
    assert_eq!(rows, expected, "docs/guide/administrators.md and the routes differ");
}

#[test]
fn each_path_has_one_row() {
    routes::assert_unique_paths(ROUTES);
}

#[test]
fn commands_that_equal_holding_the_keys_are_for_root() {
    let root_paths: Vec<&str> = ROUTES
        .iter()
        .filter(|route| matches!(route.role, AdminSocketRole::Root(_)))
        .map(|route| route.path)
        .collect();
    assert_eq!(
        root_paths,
        [
            "/v1/agents/offboard",
            "/v1/credentials/put",
            "/v1/credentials/rotate",
            "/v1/credentials/remove",
            "/v1/credentials/accept",
            "/v1/keys/recovery",
            "/v1/keys/recovery/confirm",
            "/v1/keys/recover",
            "/v1/keys/accept",
            "/v1/revocations/accept",
            "/v1/revocations/lift",
            "/v1/anomalies/resume",
            "/v1/thaw",
            "/v1/tenants/remove",
            "/v1/posture/accept",
            "/v1/clock/accept",
            "/v1/enroll/credential",
            "/v1/enroll/install",
        ]
    );
}
