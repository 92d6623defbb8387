//! Call graph of the project's own sources, as `syn` parses them. Unit tests are left out.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};

/// One function, method or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceFunction {
    /// The package that it is in.
    pub package: String,
    /// Its name without type or module. Calls are matched by this name alone.
    pub name: String,
    /// Names of the types in its return type.
    pub returns: BTreeSet<String>,
    /// Names of the functions that it calls, or passes as arguments.
    pub calls: BTreeSet<String>,
    /// Methods that it calls without an argument: an SDK's operations start that way.
    pub begins: BTreeSet<String>,
    /// Variants that it constructs, as `Type::Variant`.
    pub makes: BTreeSet<String>,
}

/// All functions of `package`, whose sources are below `folder`.
pub fn functions(package: &str, folder: &Path) -> Result<Vec<SourceFunction>> {
    let mut found = Vec::new();
    let mut of_tests = BTreeSet::new();
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            folders.push(path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = syn::parse_file(&std::fs::read_to_string(&path)?);
            let file = file.with_context(|| path.display().to_string())?;
            of_tests.extend(file.items.iter().filter_map(|item| match item {
                syn::Item::Mod(module) if is_of_tests(&module.attrs) => Some(place(module)),
                _ => None,
            }));
            files.push((path, file));
        }
    }
    // A test module may have a file or a folder of its own.
    let is_code = |path: &Path| {
        path.file_stem().is_some_and(|stem| !of_tests.contains(stem.to_string_lossy().as_ref()))
    };
    for folder in folders.iter().filter(|path| is_code(path)) {
        found.extend(functions(package, folder)?);
    }
    for (_, file) in files.iter().filter(|(path, _)| is_code(path)) {
        found.extend(read(package, file));
    }
    Ok(found)
}

/// Name of a module's file or folder, without `.rs`.
fn place(module: &syn::ItemMod) -> String {
    let named = module.attrs.iter().find_map(|attribute| match &attribute.meta {
        syn::Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(file), .. }) => Some(file.value()),
            _ => None,
        },
        _ => None,
    });
    named.map_or(module.ident.to_string(), |file| file.trim_end_matches(".rs").to_owned())
}

/// The functions in a source file's `text`.
pub fn parsed(package: &str, text: &str) -> Result<Vec<SourceFunction>> {
    Ok(read(package, &syn::parse_file(text)?))
}

fn read(package: &str, file: &syn::File) -> Vec<SourceFunction> {
    let mut reader = CallReader { package, found: Vec::new(), open: Vec::new(), variables: Vec::new() };
    reader.visit_file(file);
    reader.found
}

/// The functions of `all` that `first` accepts, and every function that they may call, directly or not.
/// `follow(from, to)` says whether a call is followed.
pub fn reached(
    all: &[SourceFunction],
    first: impl Fn(&SourceFunction) -> bool,
    follow: impl Fn(&SourceFunction, &SourceFunction) -> bool,
) -> Vec<&SourceFunction> {
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, function) in all.iter().enumerate() {
        by_name.entry(&function.name).or_default().push(at);
    }
    let mut reached: BTreeSet<usize> = (0..all.len()).filter(|at| first(&all[*at])).collect();
    let mut open: Vec<usize> = reached.iter().copied().collect();
    while let Some(at) = open.pop() {
        for called in all[at].calls.iter().filter_map(|name| by_name.get(name.as_str())).flatten() {
            if follow(&all[at], &all[*called]) && reached.insert(*called) {
                open.push(*called);
            }
        }
    }
    reached.into_iter().map(|at| &all[at]).collect()
}

struct CallReader<'a> {
    package: &'a str,
    found: Vec<SourceFunction>,
    /// Functions that are being read, the innermost last.
    open: Vec<SourceFunction>,
    /// The names of their variables.
    variables: Vec<BTreeSet<String>>,
}

impl CallReader<'_> {
    fn enter(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let mut returns = Names::default();
        returns.visit_return_type(&signature.output);
        let mut variables = Variables::default();
        variables.visit_signature(signature);
        variables.visit_block(block);
        self.variables.push(variables.0);
        self.open.push(SourceFunction {
            package: self.package.to_owned(),
            name: signature.ident.to_string(),
            returns: returns.0,
            ..SourceFunction::default()
        });
        self.visit_block(block);
        self.found.extend(self.open.pop());
        self.variables.pop();
    }

    fn called(&mut self, name: &syn::Ident) {
        if let Some(function) = self.open.last_mut() {
            function.calls.insert(name.to_string());
        }
    }

    /// Counts a function that is passed as an argument as called.
    fn passed_on<'e>(&mut self, arguments: impl IntoIterator<Item = &'e syn::Expr>) {
        for argument in arguments {
            if let syn::Expr::Path(path) = argument
                && let Some(last) = path.path.segments.last()
                && !self.variables.last().is_some_and(|known| known.contains(&last.ident.to_string()))
            {
                self.called(&last.ident);
            }
        }
    }

    fn constructed(&mut self, path: &syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if let ([.., kind, variant], Some(function)) = (parts.as_slice(), self.open.last_mut())
            && [kind, variant].iter().all(|part| part.starts_with(char::is_uppercase))
        {
            function.makes.insert(format!("{kind}::{variant}"));
        }
    }
}

fn is_of_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    })
}

impl<'ast> Visit<'ast> for CallReader<'_> {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_of_tests(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.enter(&function.sig, &function.block);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.enter(&function.sig, &function.block);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.enter(&function.sig, block);
        }
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        if let syn::Expr::Path(path) = &*call.func
            && let Some(last) = path.path.segments.last()
        {
            self.called(&last.ident);
        }
        self.passed_on(&call.args);
        visit::visit_expr_call(self, call);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.called(&call.method);
        if let (true, Some(function)) = (call.args.is_empty(), self.open.last_mut()) {
            function.begins.insert(call.method.to_string());
        }
        self.passed_on(&call.args);
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_path(&mut self, path: &'ast syn::ExprPath) {
        self.constructed(&path.path);
    }

    fn visit_expr_struct(&mut self, made: &'ast syn::ExprStruct) {
        self.constructed(&made.path);
        visit::visit_expr_struct(self, made);
    }

    /// A pattern compares and constructs nothing.
    fn visit_pat(&mut self, _: &'ast syn::Pat) {}

    fn visit_macro(&mut self, used: &'ast syn::Macro) {
        let compares = used.path.segments.last().is_some_and(|last| last.ident == "matches");
        let list = Punctuated::<syn::Expr, syn::Token![,]>::parse_terminated;
        if let (false, Ok(expressions)) = (compares, used.parse_body_with(list)) {
            for expression in &expressions {
                self.visit_expr(expression);
            }
        }
    }
}

/// Names of types.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl<'ast> Visit<'ast> for Names {
    fn visit_path_segment(&mut self, segment: &'ast syn::PathSegment) {
        self.0.insert(segment.ident.to_string());
        visit::visit_path_segment(self, segment);
    }
}

/// Names of variables.
#[derive(Default)]
struct Variables(BTreeSet<String>);

impl<'ast> Visit<'ast> for Variables {
    fn visit_pat_ident(&mut self, pattern: &'ast syn::PatIdent) {
        self.0.insert(pattern.ident.to_string());
    }
}

/// Standard output of cargo, run in the workspace.
fn cargo(arguments: &[&str]) -> Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output =
        Command::new(cargo).args(arguments).current_dir(local::system::process::workspace()).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`cargo {}` failed: {errors}", arguments.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

/// Packages as cargo knows them, by name.
#[derive(Debug)]
pub struct Packages(BTreeMap<String, Package>);

#[derive(Debug)]
struct Package {
    folder: PathBuf,
    dependencies: BTreeSet<String>,
}

impl Packages {
    /// The packages of the workspace and their dependencies on this machine's platform. A build downloads only
    /// those, so that cargo answers without the network on a new machine, too.
    pub fn of_workspace() -> Result<Self> {
        let version = cargo(&["-vV"])?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: "));
        let host = host.with_context(|| format!("`cargo -vV` names no host: {version}"))?;
        let metadata: Value = serde_json::from_str(&cargo(&[
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--offline",
            "--filter-platform",
            host,
        ])?)?;
        let packages = metadata["packages"].as_array().context("`cargo metadata` lists no packages")?;
        let read = |package: &Value| -> Option<(String, Package)> {
            let folder = Path::new(package["manifest_path"].as_str()?).parent()?.to_owned();
            let dependencies = package["dependencies"].as_array()?.iter();
            // Without dev-dependencies.
            let used = dependencies.filter(|one| one["kind"].is_null());
            let dependencies = used.filter_map(|one| Some(one["name"].as_str()?.to_owned())).collect();
            Some((package["name"].as_str()?.to_owned(), Package { folder, dependencies }))
        };
        Ok(Self(packages.iter().filter_map(read).collect()))
    }

    /// The package's own folder.
    pub fn folder(&self, name: &str) -> Result<&Path> {
        Ok(&self.0.get(name).with_context(|| format!("there is no package {name}"))?.folder)
    }

    /// `name` and its dependencies, direct or not, that `wanted` accepts. Dependencies of other packages are not
    /// followed.
    pub fn parts(&self, name: &str, wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
        let (mut parts, mut open) = (BTreeSet::from([name.to_owned()]), vec![name.to_owned()]);
        while let Some(part) = open.pop() {
            for dependency in self.0.get(&part).into_iter().flat_map(|package| &package.dependencies) {
                if wanted(dependency) && parts.insert(dependency.clone()) {
                    open.push(dependency.clone());
                }
            }
        }
        parts
    }

    /// Whether a package belongs to the workspace.
    pub fn is_own(&self, name: &str) -> bool {
        let workspace = local::system::process::workspace();
        self.0.get(name).is_some_and(|package| package.folder.starts_with(&workspace))
    }
}
