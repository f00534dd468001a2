//! Checks the module structure: imports between modules follow the table of ARCHITECTURE.md, lower modules
//! import no upper ones, and the files of a module form no circle. Code under `#[cfg(test)]` is exempt.
//!
//! The checks read the source text. They see `use` declarations and paths that begin with `crate::`,
//! `super::`, `self::` or the name of a child module (in `src/bin`: `hostbadge::`), and resolve re-exports to
//! the file that defines the item.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

/// The crate's root, which lists the modules and imports nothing.
const CRATE_ROOT: &str = "src/lib.rs";
/// The imports column of a row that may import everything.
const ALL: &str = "all";

#[test]
fn imports_are_those_of_the_architecture_table() {
    let tree = SourceTree::read();
    let table = Table::read();
    assert_no_faults(table.unlisted_imports(&tree));
}

#[test]
fn the_architecture_table_lists_no_unused_import() {
    let tree = SourceTree::read();
    let table = Table::read();
    assert_no_faults(table.unused_imports(&tree));
}

#[test]
fn no_module_imports_an_upper_one() {
    let tree = SourceTree::read();
    let table = Table::read();
    assert_no_faults(table.upward_imports(&tree));
    assert_no_faults(circles(&tree.module_imports()));
}

#[test]
fn files_of_a_module_form_no_circle() {
    let tree = SourceTree::read();
    assert!(tree.files.len() > 100, "{} files", tree.files.len());
    assert_no_faults(circles(&tree.file_imports()));
}

#[test]
fn faults_are_found_with_file_and_line() {
    let tree = SourceTree::parse(&[
        ("src/low/mod.rs", "mod a;\nmod b;\npub use b::B;\n/// [`crate::high`] is a link\npub struct Own;\n"),
        ("src/low/a.rs", "use super::B;\nfn f() { let _ = \"crate::high\"; crate::high::g(); }\n"),
        (
            "src/low/b.rs",
            "use crate::low::{\n    Own,\n    a::{self, A},\n};\n\
             #[cfg(test)]\nmod tests { use crate::high; }\n\
             mod inline { use super::B; }\nmod other { fn f() -> super::B { super::B } }\n",
        ),
        ("src/high/mod.rs", "#[cfg(test)]\nuse crate::low;\n#[cfg(test)]\nmod simulation;\n"),
        ("src/high/simulation.rs", "use crate::low::Own;\n"),
        ("src/bin/tool.rs", "use hostbadge::{high, low::Own};\n"),
    ]);
    let table = Table::parse(
        "| `src/low/` | does low things | none |\n\
         | `src/high/` | does high things | `low` |\n\
         | `src/bin/tool.rs` | a tool | `high` |\n",
    );
    assert_eq!(
        table.unlisted_imports(&tree),
        [
            "src/bin/tool.rs:1: src/bin/tool.rs imports `low`, which is not in its row of ARCHITECTURE.md",
            "src/low/a.rs:2: src/low/ imports `high`, which is not in its row of ARCHITECTURE.md",
        ],
    );
    assert_eq!(
        table.unused_imports(&tree),
        ["ARCHITECTURE.md:2: src/high/ does not import `low`; remove it from the row"],
    );
    assert_eq!(
        table.upward_imports(&tree),
        ["src/low/a.rs:2: src/low/ imports `high`, whose row is below its own in ARCHITECTURE.md"],
    );
    assert_eq!(
        circles(&tree.file_imports()),
        ["circle: src/low/a.rs -> src/low/b.rs (src/low/a.rs:1), \
             src/low/b.rs -> src/low/a.rs (src/low/b.rs:3)"],
    );
}

fn assert_no_faults(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

// The table of ARCHITECTURE.md.

/// The rows `| src/x/ | what it does | imports |`, lowest module first.
struct Table {
    rows: Vec<Row>,
}

struct Row {
    /// `src/x/`, `src/x.rs` or `src/bin/x.rs`.
    path: String,
    /// Line in ARCHITECTURE.md.
    line: usize,
    imports: BTreeSet<String>,
}

impl Table {
    fn read() -> Table {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
        let table = Table::parse(&fs::read_to_string(file).unwrap());
        assert!(table.rows.len() > 10, "{} rows of modules in ARCHITECTURE.md", table.rows.len());
        table
    }

    fn parse(text: &str) -> Table {
        let mut rows: Vec<Row> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let Some(("", rest)) = line.split_once("| `src/") else { continue };
            let cells: Vec<&str> = rest.split(" | ").collect();
            let [path, _, imports] = cells[..] else {
                panic!("ARCHITECTURE.md:{}: a module's row has three cells", index + 1);
            };
            let imports =
                imports.trim_end_matches('|').split(',').map(|name| name.trim().trim_matches('`').to_owned());
            rows.push(Row {
                path: format!("src/{}", path.trim_end_matches('`')),
                line: index + 1,
                imports: imports.filter(|name| name != "none").collect(),
            });
        }
        Table { rows }
    }

    fn row(&self, path: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.path == path)
    }

    fn position(&self, module: &str) -> Option<usize> {
        let is_module =
            |row: &Row| row.path == format!("src/{module}/") || row.path == format!("src/{module}.rs");
        self.rows.iter().position(is_module)
    }

    fn unlisted_imports(&self, tree: &SourceTree) -> Vec<String> {
        let mut faults = Vec::new();
        for (path, imports) in tree.imports_by_row() {
            let Some(row) = self.row(&path) else {
                faults.push(format!("{path} has no row in ARCHITECTURE.md"));
                continue;
            };
            for (module, at) in imports {
                if !row.imports.contains(&module) && !row.imports.contains(ALL) {
                    faults.push(format!(
                        "{at}: {path} imports `{module}`, which is not in its row of ARCHITECTURE.md"
                    ));
                }
            }
        }
        faults
    }

    fn unused_imports(&self, tree: &SourceTree) -> Vec<String> {
        let imports_by_row = tree.imports_by_row();
        let mut faults = Vec::new();
        for row in &self.rows {
            let Some(imports) = imports_by_row.get(&row.path) else {
                faults.push(format!("ARCHITECTURE.md:{}: {} does not exist", row.line, row.path));
                continue;
            };
            for module in row.imports.iter().filter(|module| *module != ALL && !imports.contains_key(*module))
            {
                faults.push(format!(
                    "ARCHITECTURE.md:{}: {} does not import `{module}`; remove it from the row",
                    row.line, row.path
                ));
            }
        }
        faults
    }

    fn upward_imports(&self, tree: &SourceTree) -> Vec<String> {
        let mut faults = Vec::new();
        for (path, imports) in tree.imports_by_row() {
            let Some(own) = self.rows.iter().position(|row| row.path == path) else { continue };
            for (module, at) in imports {
                if self.position(&module).is_some_and(|imported| imported > own) {
                    faults.push(format!(
                        "{at}: {path} imports `{module}`, whose row is below its own in ARCHITECTURE.md"
                    ));
                }
            }
        }
        faults
    }
}

// The source tree.

/// All source files, except those that only tests compile.
struct SourceTree {
    files: BTreeMap<ModulePath, SourceFile>,
}

/// Segments below the crate's root: `["audit", "chain"]`. A binary has `["bin", NAME]`.
type ModulePath = Vec<String>;

struct SourceFile {
    name: String,
    /// Paths that the file uses, with those of `pub use` declarations.
    paths: Vec<UsedPath>,
    /// Names of the items that the file defines.
    items: BTreeSet<String>,
}

struct UsedPath {
    /// Absolute, below the crate's root.
    path: ModulePath,
    /// The name under which a `use` declaration imports it; none for a path in an expression or type.
    name: Option<String>,
    is_reexport: bool,
    line: usize,
}

/// The place of an import: `src/audit/chain.rs:7`.
#[derive(Clone, Debug)]
struct Place {
    file: String,
    line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// For each importing node its imported nodes, each with the first place of the import.
type Imports = BTreeMap<String, BTreeMap<String, Place>>;

impl SourceTree {
    fn read() -> SourceTree {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut sources = Vec::new();
        read_sources(root, &root.join("src"), &mut sources);
        let sources: Vec<_> = sources.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        SourceTree::parse(&sources)
    }

    /// Takes pairs of file name and text.
    fn parse(sources: &[(&str, &str)]) -> SourceTree {
        let parsed: Vec<_> = sources
            .iter()
            .filter(|(name, _)| *name != CRATE_ROOT)
            .map(|(name, text)| {
                let (tokens, test_modules) = without_tests(tokenize(text));
                (*name, module_path(name), tokens, test_modules)
            })
            .collect();
        let mut test_only = BTreeSet::new();
        for (_, path, _, test_modules) in &parsed {
            test_only.extend(
                test_modules.iter().map(|name| [path.as_slice(), std::slice::from_ref(name)].concat()),
            );
        }
        let is_test_only =
            |path: &ModulePath| (1..=path.len()).any(|length| test_only.contains(&path[..length]));
        let modules: BTreeSet<ModulePath> = parsed.iter().map(|(_, path, ..)| path.clone()).collect();
        let files = parsed
            .iter()
            .filter(|(_, path, ..)| !is_test_only(path))
            .map(|(name, path, tokens, _)| {
                let is_child =
                    |name: &str| modules.contains([path.as_slice(), &[name.to_owned()]].concat().as_slice());
                let paths = used_paths(tokens, path, &is_child);
                (path.clone(), SourceFile { name: (*name).to_owned(), paths, items: defined_items(tokens) })
            })
            .collect();
        SourceTree { files }
    }

    /// The imports of each top-level module and each binary, by the path of its row in the table.
    fn imports_by_row(&self) -> Imports {
        let mut imports = Imports::new();
        for (path, file) in &self.files {
            let row = match path.as_slice() {
                [bin, _] if bin == "bin" => file.name.clone(),
                [_] if !file.name.ends_with("/mod.rs") => file.name.clone(),
                _ => format!("src/{}/", path[0]),
            };
            let row_imports = imports.entry(row).or_default();
            for used in &file.paths {
                let Some(module) = used.path.first() else { continue };
                if *module != path[0] && self.files.contains_key(&used.path[..1]) {
                    row_imports.entry(module.clone()).or_insert(file.place(used));
                }
            }
        }
        imports
    }

    /// The imports between top-level modules, by their names.
    fn module_imports(&self) -> Imports {
        let module_name = |row: &str| {
            row.trim_start_matches("src/").trim_end_matches('/').trim_end_matches(".rs").to_owned()
        };
        self.imports_by_row().into_iter().map(|(row, imports)| (module_name(&row), imports)).collect()
    }

    /// The imports between the files of each top-level module. Re-exports are no imports: they only give an
    /// item a second name.
    fn file_imports(&self) -> Imports {
        let mut imports = Imports::new();
        for (path, file) in &self.files {
            let file_imports = imports.entry(file.name.clone()).or_default();
            for used in file.paths.iter().filter(|used| !used.is_reexport) {
                let Some(imported) = self.defining_file(&used.path) else { continue };
                let imported_file = &self.files[&imported];
                if imported[0] == path[0] && imported_file.name != file.name {
                    file_imports.entry(imported_file.name.clone()).or_insert(file.place(used));
                }
            }
        }
        imports
    }

    /// The module whose file defines the item at `path`, through any number of re-exports.
    fn defining_file(&self, path: &[String]) -> Option<ModulePath> {
        let mut path = path.to_vec();
        // More re-exports of one item than this are a circle.
        for _ in 0..10 {
            let length = (1..=path.len()).rev().find(|length| self.files.contains_key(&path[..*length]))?;
            let (module, rest) = path.split_at(length);
            let Some(item) = rest.first() else { return Some(module.to_vec()) };
            let file = &self.files[module];
            let import = file.paths.iter().find(|used| used.name.as_ref() == Some(item));
            let glob = || {
                file.paths.iter().filter(|used| used.name.as_deref() == Some("*")).find(|used| {
                    self.files.get(&used.path).is_some_and(|globbed| globbed.items.contains(item))
                })
            };
            let Some(target) = import.or_else(glob) else { return Some(module.to_vec()) };
            if file.items.contains(item) || target.path == path {
                return Some(module.to_vec());
            }
            path = [target.path.as_slice(), &rest[1..]].concat();
        }
        None
    }
}

impl SourceFile {
    fn place(&self, used: &UsedPath) -> Place {
        Place { file: self.name.clone(), line: used.line }
    }
}

fn read_sources(root: &Path, dir: &Path, sources: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_sources(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            sources.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

/// `src/audit/chain.rs` is `["audit", "chain"]`, `src/audit/mod.rs` is `["audit"]`.
fn module_path(file_name: &str) -> ModulePath {
    let path = file_name.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').map(str::to_owned).collect()
}

/// Describes each circle once, with the place of each of its imports.
fn circles(imports: &Imports) -> Vec<String> {
    let mut faults = Vec::new();
    let mut in_a_circle = BTreeSet::new();
    for node in imports.keys() {
        if in_a_circle.contains(node) {
            continue;
        }
        let Some(circle) = shortest_circle(imports, node) else { continue };
        let step = |(from, to): (&String, &String)| format!("{from} -> {to} ({})", imports[from][to]);
        let steps: Vec<String> = circle.iter().zip(circle.iter().cycle().skip(1)).map(step).collect();
        faults.push(format!("circle: {}", steps.join(", ")));
        in_a_circle.extend(circle);
    }
    faults
}

/// The nodes of the shortest circle through `start`, which comes first.
fn shortest_circle(imports: &Imports, start: &String) -> Option<Vec<String>> {
    let mut paths = vec![vec![start.clone()]];
    let mut visited = BTreeSet::new();
    while !paths.is_empty() {
        let mut longer = Vec::new();
        for path in paths {
            for next in imports.get(path.last()?).into_iter().flat_map(BTreeMap::keys) {
                if next == start {
                    return Some(path);
                }
                if visited.insert(next.clone()) {
                    longer.push([path.as_slice(), std::slice::from_ref(next)].concat());
                }
            }
        }
        paths = longer;
    }
    None
}

// The source text.

#[derive(Clone, Debug, PartialEq)]
struct Token {
    text: String,
    line: usize,
}

impl Token {
    fn is(&self, text: &str) -> bool {
        self.text == text
    }

    fn is_ident(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// Splits Rust source into identifiers, `::` and single characters; drops comments, literals and white space.
fn tokenize(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let start = at;
        let next = chars.get(at + 1).copied();
        match chars[at] {
            '/' if next == Some('/') => at = position_after(&chars, at, "\n").saturating_sub(1).max(at + 1),
            '/' if next == Some('*') => at = after_block_comment(&chars, at),
            '"' => at = after_string(&chars, at),
            '\'' => at = after_char_or_lifetime(&chars, at),
            c if c.is_alphanumeric() || c == '_' => {
                while chars.get(at).is_some_and(|c| c.is_alphanumeric() || *c == '_') {
                    at += 1;
                }
                let word: String = chars[start..at].iter().collect();
                match (word.as_str(), chars.get(at)) {
                    ("r" | "br" | "cr", Some('"' | '#')) if raw_string_hashes(&chars, at).is_some() => {
                        let hashes = raw_string_hashes(&chars, at).unwrap_or(0);
                        let end = format!("\"{}", "#".repeat(hashes));
                        at = position_after(&chars, at + hashes + 1, &end);
                    }
                    ("b" | "c", Some('"')) => at = after_string(&chars, at),
                    ("b", Some('\'')) => at = after_char_or_lifetime(&chars, at),
                    _ => tokens.push(Token { text: word, line }),
                }
            }
            ':' if next == Some(':') => {
                tokens.push(Token { text: "::".into(), line });
                at += 2;
            }
            c => {
                if !c.is_whitespace() {
                    tokens.push(Token { text: c.into(), line });
                }
                at += 1;
            }
        }
        line += chars[start..at.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

/// The position after the first `pattern` at or after `at`, or the end.
fn position_after(chars: &[char], at: usize, pattern: &str) -> usize {
    let pattern: Vec<char> = pattern.chars().collect();
    let found = (at..chars.len()).find(|start| chars[*start..].starts_with(&pattern));
    found.map_or(chars.len(), |start| start + pattern.len())
}

fn after_block_comment(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start + 2, 1);
    while depth > 0 && at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (at, depth) = (at + 2, depth + 1),
            ('*', Some('/')) => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
    }
    at
}

fn after_string(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn after_char_or_lifetime(chars: &[char], start: usize) -> usize {
    match (chars.get(start + 1), chars.get(start + 2)) {
        (Some('\\'), _) => position_after(chars, start + 3, "'"),
        (Some(_), Some('\'')) => start + 3,
        _ => start + 1,
    }
}

/// The number of `#` of a raw string whose `r` ends at `at`; none if no raw string begins there.
fn raw_string_hashes(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    (chars.get(at + hashes) == Some(&'"')).then_some(hashes)
}

/// Removes the items under `#[cfg(test)]`. The second value lists the files that such items declare (`mod
/// x;`).
fn without_tests(tokens: Vec<Token>) -> (Vec<Token>, Vec<String>) {
    let cfg_test = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut kept, mut test_modules) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let rest = &tokens[at..];
        if rest.len() < cfg_test.len() || !rest.iter().zip(cfg_test).all(|(token, text)| token.is(text)) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let item = &rest[cfg_test.len()..];
        let length = item_length(item);
        if let [.., keyword, name, end] = &item[..length]
            && keyword.is("mod")
            && end.is(";")
        {
            test_modules.push(name.text.clone());
        }
        at += cfg_test.len() + length;
    }
    (kept, test_modules)
}

/// The number of tokens of the item, field or statement that begins here: up to its `;`, `,` or closing
/// brace.
fn item_length(tokens: &[Token]) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            "}" if depth == 0 => return at,
            "}" if depth == 1 => {
                // `use a::{b};` ends with the semicolon.
                return at + 1 + usize::from(tokens.get(at + 1).is_some_and(|next| next.is(";")));
            }
            ")" | "]" | "}" => depth -= 1,
            ";" | "," if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// The names after the keywords that define an item.
fn defined_items(tokens: &[Token]) -> BTreeSet<String> {
    let keywords = ["struct", "enum", "union", "trait", "type", "fn", "const", "static", "macro_rules"];
    let mut items = BTreeSet::new();
    for pair in tokens.windows(2) {
        if keywords.contains(&pair[0].text.as_str()) && pair[1].is_ident() {
            items.insert(pair[1].text.clone());
        }
    }
    items
}

/// All paths of a file that lead into this crate. Inside `mod x { … }`, paths are relative to `x`.
fn used_paths(tokens: &[Token], file: &ModulePath, is_child: &dyn Fn(&str) -> bool) -> Vec<UsedPath> {
    let mut paths = Vec::new();
    let mut module = file.clone();
    let (mut depth, mut inline_modules) = (0, Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at..] {
            [keyword, name, brace, ..] if keyword.is("mod") && brace.is("{") => {
                module.push(name.text.clone());
                inline_modules.push(depth);
            }
            [brace, ..] if brace.is("{") => depth += 1,
            [brace, ..] if brace.is("}") => {
                depth -= 1;
                if inline_modules.last() == Some(&depth) {
                    inline_modules.pop();
                    module.pop();
                }
            }
            _ => {}
        }
        let is_use = tokens[at].is("use") && !at.checked_sub(1).is_some_and(|before| tokens[before].is("+"));
        if is_use {
            let end = at + tokens[at..].iter().position(|token| token.is(";")).unwrap_or(tokens.len() - at);
            let mut leaves = Vec::new();
            use_leaves(&tokens[at + 1..end], &[], &mut leaves);
            for (segments, name, line) in leaves {
                if let Some(path) = absolute(&segments, &module, is_child) {
                    let is_reexport = at > 0 && (tokens[at - 1].is("pub") || tokens[at - 1].is(")"));
                    paths.push(UsedPath { path, name: Some(name), is_reexport, line });
                }
            }
            at = end + 1;
            continue;
        }
        let segments = path_segments(&tokens[at..]);
        let continues_a_path = at > 0 && (tokens[at - 1].is("::") || tokens[at - 1].is("."));
        if segments.len() > 1
            && !continues_a_path
            && let Some(path) = absolute(&segments, &module, is_child)
        {
            paths.push(UsedPath { path, name: None, is_reexport: false, line: tokens[at].line });
        }
        at += 1;
    }
    paths
}

/// The identifiers of the path that begins here: `a::b::c` without generic arguments.
fn path_segments(tokens: &[Token]) -> Vec<String> {
    let mut segments = Vec::new();
    for pair in tokens.chunks(2) {
        if !pair[0].is_ident() {
            break;
        }
        segments.push(pair[0].text.clone());
        if !pair.get(1).is_some_and(|separator| separator.is("::")) {
            break;
        }
    }
    segments
}

/// The leaves of a `use` tree: path, imported name and line.
fn use_leaves(tokens: &[Token], prefix: &[String], leaves: &mut Vec<(Vec<String>, String, usize)>) {
    let mut segments = prefix.to_vec();
    for (at, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "{" => {
                for branch in branches(&tokens[at + 1..]) {
                    use_leaves(branch, &segments, leaves);
                }
                return;
            }
            "as" => {
                let name = tokens.get(at + 1).map_or(String::new(), |alias| alias.text.clone());
                leaves.push((segments, name, token.line));
                return;
            }
            "*" => {
                leaves.push((segments, "*".into(), token.line));
                return;
            }
            "::" => {}
            // `a::{self}` imports `a`.
            "self" if !segments.is_empty() => {}
            name => segments.push(name.to_owned()),
        }
    }
    let (Some(name), Some(token)) = (segments.last().cloned(), tokens.first()) else { return };
    leaves.push((segments, name, token.line));
}

/// The comma-separated parts up to the brace that closes the group.
fn branches(tokens: &[Token]) -> Vec<&[Token]> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    for (at, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" if depth == 0 => {
                parts.push(&tokens[start..at]);
                break;
            }
            "}" => depth -= 1,
            "," if depth == 0 => {
                parts.push(&tokens[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// Resolves `crate`, `self`, `super` and child modules; none for paths of other crates.
fn absolute(segments: &[String], module: &ModulePath, is_child: &dyn Fn(&str) -> bool) -> Option<ModulePath> {
    let (first, rest) = segments.split_first()?;
    let base = match first.as_str() {
        "crate" | "hostbadge" => return Some(rest.to_vec()),
        "self" => module.as_slice(),
        "super" => {
            let supers = segments.iter().take_while(|segment| *segment == "super").count();
            let base = &module[..module.len().checked_sub(supers)?];
            return Some([base, &segments[supers..]].concat());
        }
        child if is_child(child) => return Some([module.as_slice(), segments].concat()),
        _ => return None,
    };
    Some([base, rest].concat())
}
