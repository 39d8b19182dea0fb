//! What `coopvirt report` says of files that it cannot show: one line, status 1 or 2.

mod support;

use support::{assert_names, refused, Folder};

#[test]
fn a_file_of_another_version_is_refused_by_its_version() {
    let folder = Folder::new("report-version");
    let path = folder.file("old.json", b"{\"format\": 1, \"later\": [1, 2]}");
    let line = refused(&["report", &path]);
    assert_names(&line, &[&path, "format 1", "this program reads 2"]);
    let line = refused(&["report", &path, &path]);
    assert_names(&line, &["format 1"]);
}

#[test]
fn a_file_that_is_no_comparison_or_missing() {
    let folder = Folder::new("report-other");
    let path = folder.file("other.json", b"{\"format\": 2}");
    assert_names(&refused(&["report", &path]), &[&path, "is no comparison"]);
    let path = folder.file("empty.json", b"");
    assert_names(&refused(&["report", &path]), &[&path, "is no comparison"]);
    let path = folder.missing("none.json");
    assert_names(&refused(&["report", &path]), &[&path, "cannot read"]);
}

#[test]
fn options_that_do_not_fit() {
    let line = refused(&["report"]);
    assert_names(&line, &["FILE"]);
    let line = refused(&["report", "a", "b", "c"]);
    assert_names(&line, &["c"]);
    let line = refused(&["report", "--schema", "a"]);
    assert_names(&line, &["--schema"]);
}
