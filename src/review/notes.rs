//! What a review does not know, in sentences.

use super::types::{Period, PeriodBound, Review};
use crate::plural::counted;

/// What the log does not show, in sentences for the text and the page.
pub fn notes(review: &Review) -> Vec<String> {
    let period = &review.period;
    let mut notes = Vec::new();
    if !period.complete {
        notes.push(bound(period));
    }
    if period.missing_records > 0 {
        notes.push(format!(
            "The log lacks {}: what was used by them is not known.",
            counted(period.missing_records, "record")
        ));
    }
    if !notes.is_empty() {
        notes.push(match period.accepts_incomplete {
            true => "Rights are called unused by what is known, because --incomplete was given.".to_owned(),
            false => "So nothing is called unused. Choose a period that the log covers by --since, or add \
                      --incomplete, which is weaker evidence."
                .to_owned(),
        });
    }
    notes
}

fn bound(period: &Period) -> String {
    let (since, from) = (period.since.to_rfc3339_seconds(), period.from.to_rfc3339_seconds());
    match period.bound {
        Some(PeriodBound::Size) => format!(
            "Only the latest 512 MiB of records were read, and the log is larger: what was used before {from} is not \
             known."
        ),
        Some(PeriodBound::Clock) => format!(
            "The clock of the records before {from} was not synchronized: what was used before it is not known."
        ),
        Some(PeriodBound::Log) | None => {
            format!("The log does not reach back to {since}: what was used before {from} is not known.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::review::samples::review;

    #[test]
    fn a_note_says_why_nothing_is_known() {
        let mut review = review(Vec::new());
        assert_eq!(notes(&review), Vec::<String>::new());
        review.period.complete = false;
        for (bound, text) in [
            (PeriodBound::Log, "The log does not reach back to "),
            (PeriodBound::Size, "Only the latest 512 MiB of records were read"),
            (PeriodBound::Clock, "The clock of the records before "),
        ] {
            review.period.bound = Some(bound);
            let notes = notes(&review);
            assert!(notes[0].starts_with(text) && notes[1].contains("nothing is called unused"), "{notes:?}");
        }
        review.period.missing_records = 1;
        review.period.accepts_incomplete = true;
        let notes = notes(&review);
        assert!(
            notes[1].starts_with("The log lacks 1 record:") && notes[2].contains("--incomplete was given")
        );
    }
}
