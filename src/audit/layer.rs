//! Forwards `tracing` events of this crate to the journal's thread.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::config::LogLevel;

use super::event::Event;
use super::journal::{Journal, JournalEntry};

/// A `tracing` layer that queues events for [`Journal`] and never blocks.
pub struct JournalLayer {
    journal: Journal,
    level: LevelFilter,
}

impl JournalLayer {
    /// Creates a layer that forwards events up to `level`.
    pub fn new(journal: Journal, level: LogLevel) -> JournalLayer {
        let level = match level {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
        };
        JournalLayer { journal, level }
    }
}

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        // Events of dependencies are not logged.
        metadata.is_event() && metadata.target().starts_with("hostbadge") && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut visitor = FieldVisitor::default();
        event.record(&mut visitor);
        self.journal.send(|| {
            JournalEntry::new(
                *event.metadata().level(),
                visitor.event,
                visitor.message + &visitor.other_fields,
            )
        });
    }
}

#[derive(Default)]
struct FieldVisitor {
    event: Option<Event>,
    message: String,
    other_fields: String,
}

impl Visit for FieldVisitor {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "event" => self.event = Event::from_name(value),
            "message" => self.message.push_str(value),
            name => self.push_field(name, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            // Writing to a String cannot fail.
            "message" => drop(write!(self.message, "{value:?}")),
            name => self.push_field(name, value),
        }
    }
}

impl FieldVisitor {
    fn push_field(&mut self, name: &str, value: &dyn fmt::Debug) {
        let _ = write!(self.other_fields, " {name}={value:?}");
    }
}
