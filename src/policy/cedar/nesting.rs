//! Bounds the depth of expressions before they are parsed: the parser and the engine's destructors recurse
//! without a bound, and a stack that overflows ends the daemon.
//!
//! The text is read as Cedar's lexer reads it. After a syntax error the parser goes on: it leaves out tokens until one
//! fits, closing brackets among them, and what follows is then within the bracket that was to be closed. It never
//! leaves out a `)` or `]` that closes the innermost bracket, but the `}` of a record. A bracket of another kind
//! therefore closes nothing here, and a record counts until the outermost bracket around it is closed.

use std::ops::Range;

/// Brackets and `if` within each other.
const MAX_DEPTH: usize = 32;
/// Characters of operators in one policy, `&&` being two, and its opening brackets: each can make an expression one
/// level deeper, as in `a["b"]["c"]`, and so can each condition of a policy.
const MAX_OPERATORS: usize = 2_000;

/// Brackets and operators of a policy that further recursions may walk: a tenth of what a stack bears.
const SIMPLE: (usize, usize) = (16, 200);

/// The first policy that is too complex, by its place in the text.
pub(super) fn first_too_complex(text: &str) -> Option<Range<usize>> {
    first_beyond(text, MAX_DEPTH, MAX_OPERATORS)
}

/// Whether the policies are far below what is too complex.
pub(super) fn is_simple(text: &str) -> bool {
    let (depth, operators) = SIMPLE;
    first_beyond(text, depth, operators).is_none()
}

fn first_beyond(text: &str, max_depth: usize, max_operators: usize) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let mut policy = Nesting::default();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let start = at;
        at += 1;
        match byte {
            b'"' => at = end_of_string(bytes, at),
            b'/' if bytes.get(at) == Some(&b'/') => at = end_of_line(bytes, at),
            b'(' | b'[' | b'{' => policy.open(*byte),
            b')' => policy.close(b'('),
            b']' => policy.close(b'['),
            b'}' => policy.close(b'{'),
            b';' => policy = Nesting::default(),
            b'.' | b'&' | b'|' | b'+' | b'-' | b'*' | b'/' | b'%' | b'!' | b'<' | b'=' | b'>' => {
                policy.operators += 1;
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                at = end_of_word(bytes, at);
                match &bytes[start..at] {
                    b"if" => policy.ifs += 1,
                    b"has" | b"in" | b"is" | b"like" => policy.operators += 1,
                    _ => {}
                }
            }
            _ => {}
        }
        if policy.depth + policy.ifs > max_depth || policy.operators > max_operators {
            return Some(start..at);
        }
    }
    None
}

/// What makes one policy deep.
#[derive(Default)]
struct Nesting {
    /// The brackets that are open, by their opening characters.
    open: Vec<u8>,
    /// How many brackets the parser may have within each other, at most.
    depth: usize,
    ifs: usize,
    operators: usize,
}

impl Nesting {
    fn open(&mut self, bracket: u8) {
        self.open.push(bracket);
        self.depth += 1;
        self.operators += 1;
    }

    fn close(&mut self, bracket: u8) {
        if self.open.last() != Some(&bracket) {
            return;
        }
        self.open.pop();
        match (self.open.is_empty(), bracket) {
            (true, _) => self.depth = 0,
            (false, b'{') => {}
            (false, _) => self.depth -= 1,
        }
    }
}

/// The end of a string literal whose content begins at `at`.
fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    while let Some(byte) = bytes.get(at) {
        at += match byte {
            b'"' => return at + 1,
            b'\\' => 2,
            _ => 1,
        };
    }
    bytes.len()
}

fn end_of_line(bytes: &[u8], at: usize) -> usize {
    let ends_line = |byte: &u8| matches!(byte, b'\n' | b'\r');
    bytes[at..].iter().position(ends_line).map_or(bytes.len(), |length| at + length)
}

fn end_of_word(bytes: &[u8], at: usize) -> usize {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    bytes[at..].iter().position(|byte| !is_word(byte)).map_or(bytes.len(), |length| at + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_makes_an_expression_deeper_counts() {
        let list: String = (0..10_000).map(|n| format!("\"({n}&&\\\"\", ")).collect();
        let flat = format!(
            "// {}\npermit (principal, action, resource) when {{ [{list}].contains(\"a\") }};",
            "(".repeat(99)
        );
        for text in
            [flat, "a(b);\n".repeat(10_000), "a && b;".repeat(10_000), "verify_if;".repeat(99), String::new()]
        {
            assert_eq!(first_too_complex(&text), None);
        }
        for text in
            ["(".repeat(33), "if ".repeat(33), "a.b&&".repeat(700), "x in ".repeat(2_001), "\n[{(".repeat(11)]
        {
            assert!(first_too_complex(&text).is_some(), "{text:.20}");
        }
        // Siblings are not within each other, and a record counts until the bracket around it is closed.
        for text in ["f([(a)], {b: 1}) && ".repeat(30), "when { {a: 1} }".repeat(99)] {
            assert_eq!(first_too_complex(&text), None, "{text:.20}");
        }
        assert!(first_too_complex(&format!("f({})", "{a: 1}, ".repeat(32))).is_some());
        for open in ["\"", "\"\\", "//", "a", "\"é\\"] {
            assert_eq!(first_too_complex(open), None);
        }
        assert_eq!(first_too_complex(&format!("a;\n{}", "(".repeat(40))), Some(35..36));
        assert!(
            is_simple(&"a && b; ".repeat(1_000))
                && !is_simple(&"&&".repeat(101))
                && !is_simple(&"(".repeat(17))
        );
    }

    #[test]
    fn a_comment_ends_where_that_of_the_engine_ends() {
        for end in ["\n", "\r", "\r\n"] {
            assert!(first_too_complex(&format!("// {end}{}", "(".repeat(33))).is_some(), "{end:?}");
        }
        for other in ["\t", "\u{b}", "\u{c}", "\u{85}", "\u{2028}", "\u{2029}"] {
            assert_eq!(first_too_complex(&format!("// {other}{}", "(".repeat(33))), None, "{other:?}");
        }
    }

    #[test]
    fn a_closing_bracket_that_the_parser_may_leave_out_closes_nothing() {
        for text in ["[),", "[},", "(],", "({a}:", "{a}:", "{a}:[]", "{a: b c [, d]}:"] {
            assert!(first_too_complex(&format!("permit (a == {}", text.repeat(33))).is_some(), "{text}");
        }
        for text in ["a[\"b\"]", "when { true }", "a % b", "a / b"] {
            assert!(first_too_complex(&text.repeat(2_001)).is_some(), "{text}");
        }
    }
}
