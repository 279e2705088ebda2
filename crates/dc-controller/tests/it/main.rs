//! Tests of dc-controller: the registrar's decisions.

mod registrar;
