//! QMP, HMP and the schema.
