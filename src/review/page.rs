//! The page of a review: one HTML file that needs nothing else. It has no script, and its policy forbids any.

use std::fmt::Write;

use super::figures::Totals;
use super::json::digest_of_json;
use super::notes::notes;
use super::page_parts::{bar, data, duration, lifetime_bar, text, word};
use super::types::{AgentReview, AgentState, CredentialReview, GrantReview, NotKnown, Review, Use};
use crate::clock::Timestamp;

const STYLE: &str = include_str!("page.css");

/// The page of a review, whose JSON is `json`. Its figures are those of the review.
pub fn page(review: &Review, json: &str) -> String {
    let host = text(&review.host);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>Review of agents on {host}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
    );
    page += &header(review, &host);
    page += &tiles(&review.totals);
    page += &overview(&review.totals);
    // Those that need a decision stand first.
    for state in AgentState::ALL {
        let in_state = review.agents.iter().filter(|agent| agent.state == state);
        in_state.for_each(|agent| page += &card(agent));
    }
    // Writing to a string does not fail.
    let _ = write!(
        page,
        "<details class=\"data\"><summary>The review as JSON</summary>\n{}\n</details>\n\
         <footer><p>SHA-256 of the JSON: <code>{}</code></p>\n\
         <p>Sign this review with <code>hostbadge review sign</code>, which records the digest.</p></footer>\n\
         </main>\n</body>\n</html>\n",
        data(json),
        digest_of_json(json)
    );
    page
}

fn header(review: &Review, host: &str) -> String {
    let period = &review.period;
    let mut header = format!(
        "<header>\n<h1>What agents may do and what they did on {host}</h1>\n<p class=\"soft\">{} to {}, by the audit \
         log</p>\n",
        time(period.from),
        time(period.until)
    );
    for notice in notes(review) {
        let _ = writeln!(header, "<p class=\"notice\" role=\"note\">{}</p>", text(&notice));
    }
    header + "</header>\n"
}

fn tiles(totals: &Totals) -> String {
    let tiles = [
        (totals.agents, "agents"),
        (totals.rights.unused(), "unused rights"),
        (totals.narrow, "files to narrow"),
        (totals.unused, "unused agents"),
        (totals.not_seen, "agents not seen in the period"),
        (totals.unknown, "agents whose use is not known"),
    ];
    let tile = |(figure, label): (u64, &str)| format!("<li><b>{figure}</b><span>{label}</span></li>\n");
    format!("<ul class=\"tiles\">\n{}</ul>\n", tiles.map(tile).concat())
}

fn overview(totals: &Totals) -> String {
    let rights = &totals.rights;
    format!(
        "<section class=\"card\">\n<h2>All rights</h2>\n<div class=\"bars\">\n{}{}{}</div>\n\
         <p class=\"small\">Lifetimes that can be shorter: {}</p>\n\
         <ul class=\"key\"><li><i class=\"used\"></i>used</li><li><i class=\"unused\"></i>unused</li>\
         <li><i class=\"unknown\"></i>not known</li></ul>\n</section>\n",
        bar("Audiences", rights.audiences),
        bar("Scopes", rights.scopes),
        bar("Credentials", rights.credentials),
        rights.shorter_lifetimes
    )
}

fn card(agent: &AgentReview) -> String {
    let state = agent.state.name();
    let mut card = format!(
        "<section class=\"card\">\n<div class=\"head\"><h2>{}</h2><span class=\"state {state}\">{}</span></div>\n\
         <p class=\"soft small\">{}</p>\n<div class=\"bars\">\n{}{}{}</div>\n",
        text(&agent.name),
        state_text(agent.state),
        about(agent),
        bar("Audiences", agent.counts.audiences),
        bar("Scopes", agent.counts.scopes),
        bar("Credentials", agent.counts.credentials)
    );
    if !agent.grants.is_empty() {
        card += "<h3>Audiences</h3>\n<ul class=\"rights\">\n";
        agent.grants.iter().for_each(|one| card += &grant(one));
        card += "</ul>\n";
    }
    if !agent.credentials.is_empty() {
        card += "<h3>Credentials</h3>\n<ul class=\"rights\">\n";
        agent.credentials.iter().for_each(|one| card += &credential(one));
        card += "</ul>\n";
    }
    if let Some(reason) = &agent.not_narrowed {
        let _ = writeln!(card, "<p class=\"notice small\">The file is not narrowed: {}</p>", text(reason));
    }
    if let Some(diff) = &agent.diff {
        let diff: Vec<String> = diff.lines().map(text).collect();
        let _ = writeln!(
            card,
            "<details><summary>The narrowed file</summary>\n<pre>{}</pre>\n</details>",
            diff.join("\n")
        );
    }
    card + "</section>\n"
}

fn state_text(state: AgentState) -> &'static str {
    match state {
        AgentState::Narrow => "can be narrowed",
        AgentState::Unused => "unused",
        AgentState::Unknown => "use not known",
        AgentState::Keep => "keeps its file",
    }
}

fn about(agent: &AgentReview) -> String {
    let mut parts = vec![match agent.last_seen {
        Some(at) => format!("seen last {}", time(at)),
        None => "not seen in the period".to_owned(),
    }];
    parts.push(format!("known since {}", time(agent.known_since)));
    parts.extend(agent.owner.iter().map(|owner| format!("owner {}", text(owner))));
    parts.extend(agent.tenant.iter().map(|tenant| format!("tenant {}", text(tenant))));
    if !agent.roles.is_empty() {
        parts.push(format!("roles {}", text(&agent.roles.join(", "))));
    }
    if agent.drain {
        parts.push("drained".to_owned());
    }
    parts.push(text(&agent.file.to_string_lossy()));
    parts.join(" · ")
}

fn grant(grant: &GrantReview) -> String {
    let mut item = format!(
        "<li>\n<p><code>{}</code> <span class=\"soft small\">{}</span></p>\n",
        text(&grant.audience),
        used_how(grant.state, grant.issued, "issued", grant.last_used)
    );
    for scope in &grant.scopes {
        let class = match scope.state {
            Use::Used => "scope",
            Use::Unused => "scope is-unused",
            Use::Unknown => "scope is-unknown",
        };
        let title = word(scope.state);
        let _ = writeln!(item, "<code class=\"{class}\" title=\"{title}\">{}</code>", text(&scope.scope));
    }
    if let Some(longest) = grant.longest {
        item += &lifetime_bar(grant.ttl, longest);
    }
    let mut todo = Vec::new();
    let narrowing = &grant.narrowing;
    if narrowing.remove {
        todo.push("remove the grant".to_owned());
    }
    if !narrowing.remove_scopes.is_empty() {
        todo.push(format!("remove {}", text(&narrowing.remove_scopes.join(" "))));
    }
    if let Some(ttl) = narrowing.ttl {
        todo.push(format!("ttl {} to {}", duration(grant.ttl), duration(ttl)));
    }
    item += &not_known(grant.not_known);
    item + &end_of_item(todo, grant.role.as_deref(), grant.stays_because_of_role.as_deref())
}

fn credential(credential: &CredentialReview) -> String {
    let mut item = format!(
        "<li>\n<p><code>{}</code> <span class=\"soft small\">{}</span></p>\n",
        text(&credential.name),
        used_how(credential.state, credential.released, "released", credential.last_used)
    );
    let todo = if credential.remove { vec!["remove the credential".to_owned()] } else { Vec::new() };
    item += &not_known(credential.not_known);
    item + &end_of_item(todo, credential.role.as_deref(), credential.stays_because_of_role.as_deref())
}

fn not_known(why: Option<NotKnown>) -> String {
    let sentence = |why: NotKnown| format!("<p class=\"small soft\">Not known: {}</p>\n", text(why.text()));
    why.map(sentence).unwrap_or_default()
}

fn used_how(state: Use, count: u64, verb: &str, last: Option<Timestamp>) -> String {
    match last {
        Some(last) => format!("{verb} {count}×, last {}", time(last)),
        None => word(state).to_owned(),
    }
}

fn end_of_item(todo: Vec<String>, role: Option<&str>, stays_because_of: Option<&str>) -> String {
    let mut end = String::new();
    if !todo.is_empty() {
        let _ = writeln!(end, "<p class=\"small todo\">Proposed: {}</p>", todo.join("; "));
    }
    if let Some(role) = role {
        let _ =
            writeln!(end, "<p class=\"small soft\">By role {}, whose file is not narrowed</p>", text(role));
    }
    if let Some(role) = stays_because_of {
        let role = text(role);
        let _ = writeln!(
            end,
            "<p class=\"small soft\">Stays: without it, what role {role} grants would take effect</p>"
        );
    }
    end + "</li>\n"
}

fn time(at: Timestamp) -> String {
    format!("<time>{}</time>", at.to_rfc3339_seconds())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::review::json::to_json;
    use crate::review::samples::{agent_review, review};

    #[test]
    fn the_page_needs_nothing_else_and_runs_nothing() {
        let hostile = "https://x/\"><script src=//evil></script><img/onerror=alert(1)>";
        let mut agent = agent_review("a", &[hostile], &["c"]);
        agent.owner = Some("</style><svg onload=alert(1)>".to_owned());
        agent.file = "/etc/<b>.toml".into();
        agent.diff = Some("--- a\n+++ a\n-<script>\n".to_owned());
        agent.not_narrowed = Some("<i>".to_owned());
        agent.grants[0].scopes[0].scope = "<a&b>".to_owned();
        let review = review(vec![agent]);
        let page = page(&review, &to_json(&review).unwrap());
        let tags: std::collections::BTreeSet<&str> = page
            .split('<')
            .skip(1)
            .map(|tag| tag.trim_start_matches(['/', '!']).split([' ', '>', '/']).next().unwrap_or_default())
            .collect();
        let known = [
            "DOCTYPE", "b", "body", "code", "details", "div", "footer", "h1", "h2", "h3", "head", "header",
            "html", "i", "li", "main", "meta", "p", "pre", "rect", "section", "span", "style", "summary",
            "svg", "time", "title", "ul",
        ];
        assert_eq!(
            tags.into_iter().filter(|tag| !known.contains(tag)).collect::<Vec<_>>(),
            Vec::<&str>::new()
        );
        for reference in ["src=", "href=", "url(", "@import", "onload=", "onerror="] {
            let markup: Vec<&str> = page.split(['<', '>']).filter(|part| part.contains(reference)).collect();
            // In texts only, which have no markup.
            assert!(markup.iter().all(|part| part.contains("&lt;")), "{reference}: {markup:?}");
        }
        assert!(page.contains("content=\"default-src 'none'; style-src 'unsafe-inline'\""));
    }

    #[test]
    fn those_that_need_a_decision_stand_first_and_gaps_are_said() {
        let in_state = |name: &str, state| AgentReview { state, ..agent_review(name, &[], &[]) };
        let mut review = review(vec![
            in_state("kept", AgentState::Keep),
            in_state("new", AgentState::Unknown),
            in_state("idle", AgentState::Unused),
            in_state("wide", AgentState::Narrow),
        ]);
        let made = |review: &Review| page(review, &to_json(review).unwrap());
        let whole = made(&review);
        let places: Vec<usize> = ["wide", "idle", "new", "kept"]
            .iter()
            .map(|name| whole.find(&format!("<h2>{name}</h2>")).unwrap())
            .collect();
        assert!(places.is_sorted(), "{places:?}");
        assert!(!whole.contains("does not reach back") && !whole.contains("The log lacks"));
        review.period.complete = false;
        review.period.missing_records = 2;
        let page = made(&review);
        assert!(page.contains("does not reach back") && page.contains("The log lacks 2 records"), "{page}");
    }
}
