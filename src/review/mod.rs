//! Reviews of rights: what each agent may do against what it did, by the audit log, with the narrowed file.
//!
//! [`read()`] compares the agents of a directory with a log and makes a [`Review`], whose rights are counted in one
//! place ([`Counts`]): the text, the JSON and the page have the same figures. [`narrowed_files`] removes from the
//! agents' own files what was not used ([`narrow()`]), and keeps only a text that the daemon would read, that gives
//! no further right and still gives what was used. [`Document`] reads a review again, from its JSON or from its page.
//!
//! Nothing is called unused that the log cannot show. The use of an agent is not known where the log lacks records,
//! and where the log or the agent's file is younger than the period, or than a day. That of a right is not known where
//! a record does not have all audiences or scopes, where the agent asked for it and was refused, for credentials whose
//! use is not recorded, and for those that a unit can have loaded when it started, before the period.

mod changed;
mod compare;
mod counts;
mod document;
mod figures;
mod json;
mod narrow;
mod narrowed_file;
mod notes;
mod page;
mod page_parts;
mod read;
#[cfg(test)]
mod samples;
mod types;

pub use document::{Document, DocumentError};
pub use figures::{Count, Counts, Totals};
pub use json::to_json;
pub use narrow::narrow;
pub use narrowed_file::{NarrowedFile, narrowed_files};
pub use notes::notes;
pub use page::page;
pub use read::{ReviewRequest, read};
pub use types::{
    AgentReview, AgentState, AppliedFile, CredentialReview, GrantReview, Narrowing, NotKnown, Period,
    PeriodBound, Review, ScopeReview, Use, VERSION,
};
