//! The name that was probably meant.

/// Longer names are not compared.
const MAX_LEN: usize = 64;
/// Shorter names are the beginning of too many others.
const MIN_PART_LEN: usize = 3;

/// The name that differs least from `written`, if it differs in one character or in a third of them, or if one
/// of the two begins with the other.
pub fn nearest<'a>(written: &str, names: &[&'a str]) -> Option<&'a str> {
    let written = written.to_ascii_lowercase();
    if written.len() > MAX_LEN {
        return None;
    }
    let distances = names.iter().map(|name| (distance(&written, name), *name));
    let is_near = |(distance, name): &(usize, &str)| {
        let is_part =
            written.len() >= MIN_PART_LEN && (name.starts_with(&written) || written.starts_with(name));
        is_part || *distance <= (name.len() / 3).max(1)
    };
    distances.filter(is_near).min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// Characters to insert, remove, replace or exchange with the next one (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            if i == 0 || j == 0 {
                rows[i][j] = i + j;
                continue;
            }
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            rows[i][j] = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                rows[i][j] = rows[i][j].min(rows[i - 2][j - 2] + 1);
            }
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_typing_errors_are_found() {
        let names = ["user", "group", "unit", "exe", "exe_sha256", "measured"];
        for (written, expected) in [
            ("uesr", Some("user")),
            ("User", Some("user")),
            ("grup", Some("group")),
            ("units", Some("unit")),
            ("exe-sha256", Some("exe_sha256")),
            ("measure", Some("measured")),
            ("user_name", Some("user")),
            ("path", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, &names), expected, "{written}");
        }
        assert_eq!(nearest(&"a".repeat(10_000), &names), None);
    }
}
