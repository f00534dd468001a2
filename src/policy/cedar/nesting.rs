//! Bounds the depth of expressions before they are parsed: the parser and the engine's destructors recurse
//! without a bound, and a stack that overflows ends the daemon.

use std::ops::Range;

/// Brackets and `if` within each other.
const MAX_DEPTH: usize = 32;
/// Characters of operators in one policy, `&&` being two: each can make an expression one level deeper.
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
    let (mut depth, mut ifs, mut operators) = (0_usize, 0_usize, 0_usize);
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let start = at;
        at += 1;
        match byte {
            b'"' => at = end_of_string(bytes, at),
            b'/' if bytes.get(at) == Some(&b'/') => at = end_of_line(bytes, at),
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b';' => (depth, ifs, operators) = (0, 0, 0),
            b'.' | b'&' | b'|' | b'+' | b'-' | b'*' | b'!' | b'<' | b'=' | b'>' => operators += 1,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                at = end_of_word(bytes, at);
                match &bytes[start..at] {
                    b"if" => ifs += 1,
                    b"has" | b"in" | b"is" | b"like" => operators += 1,
                    _ => {}
                }
            }
            _ => {}
        }
        if depth + ifs > max_depth || operators > max_operators {
            return Some(start..at);
        }
    }
    None
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
    bytes[at..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |length| at + length)
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
}
