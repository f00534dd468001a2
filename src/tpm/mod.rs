//! The only room that knows tss-esapi.
