//! Carries what the rooms say through `tracing` to the journal's thread.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::{Event, Journal, Note};
use crate::config::LogLevel;

/// A tracing layer that never blocks.
pub struct Relay {
    journal: Journal,
    level: LevelFilter,
}

impl Relay {
    pub fn new(journal: Journal, level: LogLevel) -> Relay {
        let level = match level {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
        };
        Relay { journal, level }
    }
}

impl<S: Subscriber> Layer<S> for Relay {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        // Other crates' inner lives are not the administrator's concern.
        metadata.is_event() && metadata.target().starts_with("hostbadge") && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut words = Words::default();
        event.record(&mut words);
        self.journal.say(Note::plain(*event.metadata().level(), words.event, words.message + &words.others));
    }
}

#[derive(Default)]
struct Words {
    event: Option<Event>,
    message: String,
    others: String,
}

impl Visit for Words {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "event" => self.event = Event::ALL.iter().copied().find(|event| event.name() == value),
            "message" => self.message.push_str(value),
            name => self.other(name, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            // Writing to a String does not fail.
            "message" => drop(write!(self.message, "{value:?}")),
            name => self.other(name, value),
        }
    }
}

impl Words {
    fn other(&mut self, name: &str, value: &dyn fmt::Debug) {
        let _ = write!(self.others, " {name}={value:?}");
    }
}
