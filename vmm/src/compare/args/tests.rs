//! Command lines: what they choose, and what they are refused for.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

/// Arguments as `coopvirt compare LINE` gives them.
pub(in super::super) fn parse(line: &str) -> Args {
    let words = std::iter::once("compare").chain(line.split_whitespace());
    Cli::parse_from(words).args
}

#[test]
fn sizes_have_units_and_limits() {
    assert_eq!(parse_size("512M"), Ok(512 << 20));
    assert_eq!(parse_size("1g"), Ok(1 << 30));
    assert_eq!(parse_size("4096"), Ok(4096));
    for bad in ["", "M", "-1M", "1T", "99999999999999999G", "1.5G"] {
        assert!(parse_size(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_default_is_all_works_and_the_first_arm_as_reference() {
    let choice = parse("").choose().unwrap();
    let names: Vec<_> = choice.arms.iter().map(|arm| arm.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "qemu-pci",
            "qemu-mmio",
            "hvm",
            "kvm",
            "kvm+haltpoll",
            "kvm+haltpoll+nohlt"
        ]
    );
    assert_eq!(choice.reference, "qemu-pci");
    assert_eq!(choice.works, Work::ALL);
}

#[test]
fn lists_are_resolved_in_order_without_duplicates() {
    let choice = parse("--arms kvm,hvm,kvm --works read1,boot,read1")
        .choose()
        .unwrap();
    assert_eq!(
        choice
            .arms
            .iter()
            .map(|arm| arm.name.as_str())
            .collect::<Vec<_>>(),
        ["kvm", "hvm"]
    );
    assert_eq!(choice.works, [Work::Boot, Work::Read1]);
    let choice = parse("--arms kvm,coop,coop+sidecore").choose().unwrap();
    assert_eq!(choice.arms.len(), 4);
    let choice = parse("--peer none --reference kvm").choose().unwrap();
    assert_eq!(choice.reference, "kvm");
    assert_eq!(choice.arms[0].name, "hvm");
}

#[test]
fn nonsense_is_refused() {
    for line in [
        "--arms xen",
        "--arms =stock",
        "--works dance",
        "--aa --arms kvm --reference hvm",
        "--memory 1M",
        "--reference hvm --arms kvm",
        "--peer none --arms qemu-pci",
    ] {
        assert!(parse(line).choose().is_err(), "{line}");
    }
    for line in [
        "-n 0",
        "-n -1",
        "--cpus 0",
        "--scale 0",
        "--scale nan",
        "--arm {}",
    ] {
        let words = std::iter::once("compare").chain(line.split_whitespace());
        assert!(Cli::try_parse_from(words).is_err(), "{line}");
    }
}

#[test]
fn own_arms_are_arms_alone_in_their_place_or_behind() {
    let own = r#"--arm {name="small",base="kvm",backing="small"}"#;
    let names = |line: &str| -> Vec<String> {
        let choice = parse(&format!("{line} {own}")).choose().unwrap();
        choice.arms.iter().map(|arm| arm.name.clone()).collect()
    };
    assert_eq!(names(""), ["small"]);
    assert_eq!(names("--arms hvm,kvm"), ["hvm", "kvm", "small"]);
    assert_eq!(names("--arms small,kvm"), ["small", "kvm"]);
    assert!(parse(&format!("{own} {own}")).choose().is_err());
}

#[test]
fn an_aa_comparison_has_the_reference_twice() {
    let choice = parse("--aa --arms kvm,hvm --reference kvm")
        .choose()
        .unwrap();
    let names: Vec<_> = choice.arms.iter().map(|arm| arm.name.as_str()).collect();
    assert_eq!(names, ["kvm", "kvm@2", "hvm"]);
    assert_eq!(choice.arms[0].vmm, choice.arms[1].vmm);
}
