//! Checks the chain of lines that were copied from a log file.

use super::line::{LineId, WholeLine};

/// Checks that each of these lines follows the one before. The lines before and after them are not known, so that a
/// change of the last line is not found. Returns how many lines there are.
///
/// # Errors
/// The number of the first line, counted from 1, that is not whole or does not follow.
pub fn check_lines(text: &[u8]) -> Result<usize, usize> {
    let mut previous: Option<LineId> = None;
    let mut count = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        count += 1;
        let line = line.strip_suffix(b"\n").and_then(WholeLine::from_bytes).ok_or(count)?;
        if previous.is_some_and(|previous| !line.follows(previous)) {
            return Err(count);
        }
        previous = Some(line.id);
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::super::line::append_line;
    use super::*;

    #[test]
    fn a_line_that_does_not_follow_is_found() {
        let mut lines = Vec::new();
        let mut last = LineId::without_digest(6);
        for _ in 0..4 {
            let mut line = Vec::new();
            last = append_line(&mut line, last, b"\"detail\":\"x\"}");
            lines.push(line);
        }
        assert_eq!(check_lines(&lines.concat()), Ok(4));
        assert_eq!(check_lines(&lines[1..].concat()), Ok(3));
        assert_eq!(check_lines(b""), Ok(0));
        lines.remove(1);
        assert_eq!(check_lines(&lines.concat()), Err(2));
        assert_eq!(check_lines(b"{}\n"), Err(1));
        assert_eq!(check_lines(&lines[0][..lines[0].len() - 1]), Err(1));
    }
}
