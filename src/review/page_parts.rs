//! The parts of the page: texts that cannot become markup, bars, and the data that the page is made of.

use std::fmt::Write;

use super::figures::Count;
use super::types::Use;
use crate::config::escape_unprintable;

/// What stands before the JSON in the page, and after it. No text in the page can contain the first, since `<` is
/// escaped.
pub(super) const DATA_START: &str = "<pre id=\"review\">";
pub(super) const DATA_END: &str = "</pre>";

/// A text in the page, as content or in quotes. Audiences, scopes and owners are what others chose.
pub(super) fn text(text: &str) -> String {
    escape(&escape_unprintable(text))
}

/// The JSON in the page, whose texts are escaped already.
pub(super) fn data(json: &str) -> String {
    format!("{DATA_START}{}{DATA_END}", escape(json))
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The text that [`escape`] escaped.
pub(super) fn unescape(text: &str) -> String {
    let others = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'");
    others.replace("&amp;", "&")
}

/// A labelled bar: the used part, the unused part, and what is not known.
pub(super) fn bar(label: &str, count: Count) -> String {
    let Count { granted, used, unused } = count;
    let unknown = granted.saturating_sub(used + unused);
    let figures = match granted {
        0 => "none granted".to_owned(),
        _ => format!("{used} of {granted} used"),
    };
    let mut svg = String::new();
    let mut begin = 0;
    for (class, part) in [("used", used), ("unused", unused), ("unknown", unknown)] {
        if part > 0 {
            // Writing to a string does not fail.
            let _ = write!(svg, "<rect class=\"{class}\" x=\"{begin}\" width=\"{part}\" height=\"1\"/>");
        }
        begin += part;
    }
    format!(
        "<div class=\"bar\"><div class=\"label\"><span>{label}</span><span>{figures}</span></div>\
         <svg viewBox=\"0 0 {} 1\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{label}: {figures}, \
         {unused} unused, {unknown} not known\">{svg}</svg></div>\n",
        granted.max(1)
    )
}

/// A bar of two lifetimes: the longest that was given, in the longest that is granted.
pub(super) fn lifetime_bar(ttl: u64, longest: u64) -> String {
    let (used, granted) = (longest.min(ttl), ttl.max(1));
    let figures = format!("{} of {}", duration(longest), duration(ttl));
    format!(
        "<div class=\"bar\"><div class=\"label\"><span>Longest lifetime</span><span>{figures}</span></div>\
         <svg viewBox=\"0 0 {granted} 1\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"Longest lifetime: \
         {figures}\"><rect class=\"used\" x=\"0\" width=\"{used}\" height=\"1\"/></svg></div>\n"
    )
}

/// Seconds as people write them: `59m 50s`.
pub(super) fn duration(secs: u64) -> String {
    humantime::format_duration(std::time::Duration::from_secs(secs)).to_string()
}

/// The word for a state of a right.
pub(super) fn word(state: Use) -> &'static str {
    match state {
        Use::Used => "used",
        Use::Unused => "unused",
        Use::Unknown => "not known",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_becomes_markup_and_data_are_read_back() {
        let hostile = "</pre><script>alert(1)</script>\"'&amp;&lt;\u{202e}\u{1b}[31m";
        let escaped = text(hostile);
        assert!(!escaped.contains(['<', '>', '"', '\'', '\u{202e}', '\u{1b}']), "{escaped}");
        assert_eq!(unescape(&escape(hostile)), hostile);
        let data = data(hostile);
        let inner = data.strip_prefix(DATA_START).unwrap().strip_suffix(DATA_END).unwrap();
        assert!(!inner.contains('<') && unescape(inner) == hostile, "{data}");
    }

    #[test]
    fn a_bar_has_its_figures() {
        let text = bar("Scopes", Count { granted: 5, used: 2, unused: 1 });
        assert!(text.contains("2 of 5 used") && text.contains("viewBox=\"0 0 5 1\""), "{text}");
        assert!(text.contains("class=\"unused\" x=\"2\" width=\"1\""), "{text}");
        assert!(text.contains("class=\"unknown\" x=\"3\" width=\"2\""), "{text}");
        assert!(bar("None", Count::default()).contains("viewBox=\"0 0 1 1\""));
        assert!(lifetime_bar(300, 60).contains("1m of 5m"));
    }
}
