//! The list of what is defended against names tests that exist.
use std::path::Path;

#[test]
fn every_test_that_the_list_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let list = std::fs::read_to_string(root.join("tests/hostile/README.md")).expect("the list");
    let (mut rows, mut missing) = (0, Vec::new());
    for row in list.lines().filter(|l| l.starts_with("| ") && l.contains('`')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [.., file, test] = cells[..] else { panic!("{row}") };
        let (file, test) = (file.trim_matches('`'), test.trim_matches('`'));
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
        let there = |word: &str| text.contains(&format!("{word} {test}("));
        if !there("fn") && !there("def") {
            missing.push(format!("{file}: {test}"));
        }
        rows += 1;
    }
    assert!(rows > 100, "only {rows} rows were read");
    assert!(missing.is_empty(), "{missing:#?}");
}
