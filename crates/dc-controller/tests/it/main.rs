//! Tests of dc-controller: the registrar's decisions, and the task against the in-memory plane.

mod registrar;
mod task;
