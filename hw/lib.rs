//! Device models by bus and kind.
