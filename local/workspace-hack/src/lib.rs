//! Nothing but dependencies, with the features that they have in a build of the whole workspace.
//!
//! Cargo compiles a dependency with the features that the chosen packages ask for. `make demo` and `make up` choose some
//! packages, because a build of all takes longer, and this one with them: so `make test` and `make build` find the
//! dependencies of the demo compiled, and the demo finds theirs. A test compares the features.
