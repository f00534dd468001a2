//! A review as a file: one line of JSON, or the page that has this line in it.

use data_encoding::HEXLOWER;

use super::counts::{counts_of, totals_of};
use super::json::digest_of_json;
use super::page::page;
use super::page_parts::{DATA_END, DATA_START, unescape};
use super::types::{Review, VERSION};
use crate::digest::sha256;

/// A review that was read from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The review.
    pub review: Review,
    /// SHA-256 of the JSON with the end of its line, 64 hexadecimal digits: what sha256sum says of the file.
    pub sha256: String,
}

/// Why a file is no review.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is not UTF-8.
    #[error("the file is not UTF-8; name the output of hostbadge review --json or --html")]
    NotUtf8,
    /// It is neither the JSON nor the page.
    #[error("the file is no review; name the output of hostbadge review --json or --html")]
    NotReview(#[source] serde_json::Error),
    /// Another release made it.
    #[error(
        "the review has version {0}, and this release reads version {VERSION}; use the release that made it"
    )]
    Version(u64),
    /// Its figures are not those of its agents.
    #[error("the figures of the review do not add up to those of its agents: the file was changed")]
    Figures,
    /// The page is not what this release makes of its review.
    #[error(
        "the page is not what this release of hostbadge makes of the review in it: the file was changed, or another \
         release made it; review again, or sign the JSON"
    )]
    Page,
}

impl Document {
    /// Reads the JSON, or the page. The figures have to be those of the agents, and the page what [`page`] makes of
    /// its review, so that a digest stands for what a reader of either has seen.
    ///
    /// # Errors
    /// The file is none of these.
    pub fn read(bytes: &[u8]) -> Result<Document, DocumentError> {
        let text = std::str::from_utf8(bytes).map_err(|_| DocumentError::NotUtf8)?;
        let embedded = text.split_once(DATA_START).and_then(|(_, rest)| rest.split_once(DATA_END));
        let Some((data, _)) = embedded.filter(|_| text.trim_start().starts_with('<')) else {
            let review = parse(text)?;
            return Ok(Document { review, sha256: HEXLOWER.encode(&sha256(bytes)) });
        };
        let json = unescape(data);
        let review = parse(&json)?;
        if page(&review, &json) != text {
            return Err(DocumentError::Page);
        }
        Ok(Document { review, sha256: digest_of_json(&json) })
    }
}

fn parse(json: &str) -> Result<Review, DocumentError> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u64,
    }
    let versioned: Versioned = serde_json::from_str(json).map_err(DocumentError::NotReview)?;
    if versioned.version != VERSION {
        return Err(DocumentError::Version(versioned.version));
    }
    let review: Review = serde_json::from_str(json).map_err(DocumentError::NotReview)?;
    let has_own_figures = review.totals == totals_of(&review.agents)
        && review.agents.iter().all(|agent| agent.counts == counts_of(agent));
    if has_own_figures { Ok(review) } else { Err(DocumentError::Figures) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::review::json::to_json;
    use crate::review::samples::{agent_review, review};

    #[test]
    fn the_json_and_the_page_are_the_same_review() {
        let mut agent = agent_review("a", &["https://x/?a=1&b=<2>"], &["c"]);
        agent.owner = Some("\u{202e}\"><b>team</b>".to_owned());
        let review = review(vec![agent]);
        let json = to_json(&review).unwrap();
        assert!(!json.contains('\u{202e}'), "{json}");
        let file = format!("{json}\n");
        let of_json = Document::read(file.as_bytes()).unwrap();
        assert_eq!(of_json.review, review);
        let of_page = Document::read(page(&review, &json).as_bytes()).unwrap();
        assert_eq!(of_page, of_json);
        assert_eq!(of_json.sha256, HEXLOWER.encode(&sha256(file.as_bytes())));
    }

    #[test]
    fn what_was_changed_is_no_review() {
        let review = review(vec![agent_review("a", &["https://x", "https://y"], &[])]);
        let json = to_json(&review).unwrap();
        let page = page(&review, &json);
        let error = |text: &str| Document::read(text.as_bytes()).unwrap_err().to_string();
        let figure = json.replace("\"granted\":2,\"used\":2", "\"granted\":2,\"used\":1");
        assert_ne!(figure, json);
        assert!(error(&figure).starts_with("the figures"), "{}", error(&figure));
        assert!(error(&page.replace("https://y", "https://z")).starts_with("the page is not"));
        assert!(error(&page.replacen("host-1", "host-2", 1)).starts_with("the page is not"));
        assert!(error(&json.replace("\"version\":1", "\"version\":2")).contains("has version 2"));
        assert!(error("{}").starts_with("the file is no review"));
        assert!(error("<html></html>").starts_with("the file is no review"));
        assert!(matches!(Document::read(b"\xff"), Err(DocumentError::NotUtf8)));
    }
}
