//! Tests of the settings' text forms.

use super::*;

fn args(line: &str) -> Result<Option<Options>, OptionsError> {
    Options::from_args(line.split_whitespace().map(str::to_string))
}

#[test]
fn a_command_line_without_settings_gives_the_defaults() {
    let (options, result) = Options::from_cmdline("console=ttyS0 quiet reboot=t -- x\n");
    assert_eq!((options, result), (Options::default(), Ok(())));
    assert_eq!(Options::default().works.len(), Work::ALL.len() - 1);
    assert!(!Options::default().works.contains(&Work::Boot));
}

#[test]
fn both_spellings_give_the_same_settings() {
    let (from_cmdline, result) = Options::from_cmdline(
        "quiet coopvirt.works=pipe,tlb coopvirt.first=cycles coopvirt.cycles=9 coopvirt.cycle_params=ipi=0 coopvirt.scale=0.05 coopvirt.reps=3 coopvirt.seconds=7 coopvirt.return_wait_s=8 coopvirt.warm_up_s=6 coopvirt.settle_ms=20 coopvirt.timeout_s=9 \
         coopvirt.tlb_threads=2 coopvirt.disk=/dev/vdb coopvirt.marks=off coopvirt.console=hvc0 \
         coopvirt.module=idle=0,level=1 coopvirt.module_cycles=7 coopvirt.end=triple",
    );
    assert_eq!(result, Ok(()));
    let from_args = args(
        "--works pipe,tlb --first cycles --cycles 9 --cycle-params ipi=0 --scale=0.05 --reps 3 --seconds 7 --return-wait-s 8 --warm-up-s 6 --settle-ms 20 --timeout-s 9 --tlb-threads 2 \
         --disk /dev/vdb --no-marks --console hvc0 --module idle=0,level=1 --module-cycles 7 --end triple",
    );
    assert_eq!(from_args, Ok(Some(from_cmdline.clone())));
    assert_eq!(from_cmdline.works, [Work::Pipe, Work::Tlb]);
    assert_eq!(from_cmdline.warm_up, Duration::from_secs(6));
    assert_eq!(from_cmdline.settle, Duration::from_millis(20));
    assert_eq!(from_cmdline.timeout, Some(Duration::from_secs(9)));
    assert_eq!(from_cmdline.first, [Work::Cycles]);
    assert_eq!(from_cmdline.cycles, Some(9));
    assert_eq!(from_cmdline.cycle_params, "ipi=0");
    assert_eq!(from_cmdline.seconds, Some(7));
    assert_eq!(from_cmdline.return_wait, Some(Duration::from_secs(8)));
    assert_eq!(from_cmdline.end, End::Reboot);
    assert!(!from_cmdline.has_marks);
    assert_eq!(from_cmdline.module.as_deref(), Some("idle=0,level=1"));
}

#[test]
fn a_plan_for_the_network_is_read_as_a_whole_or_not_at_all() {
    let read =
        |text: &str| args(&format!("--net {text}")).map(|options| options.and_then(|o| o.net));
    let plan = NetPlan {
        address: Ipv4Addr::new(10, 0, 0, 2),
        prefix: 24,
        server: "10.0.0.1:5001".parse().unwrap(),
        bytes: 2 << 20,
        connections: 4,
        awaits_down: false,
    };
    assert_eq!(read("10.0.0.2/24,10.0.0.1:5001,2,4"), Ok(Some(plan)));
    let awaiting = NetPlan {
        awaits_down: true,
        ..plan
    };
    assert_eq!(
        read("10.0.0.2/24,10.0.0.1:5001,2,4,down"),
        Ok(Some(awaiting))
    );
    for bad in [
        "10.0.0.2,10.0.0.1:5001,2,4",
        "10.0.0.2/0,10.0.0.1:5001,2,4",
        "10.0.0.2/33,10.0.0.1:5001,2,4",
        "10.0.0.2/24,10.0.0.1,2,4",
        "10.0.0.2/24,10.0.0.1:5001,0,4",
        "10.0.0.2/24,10.0.0.1:5001,2,0",
        "10.0.0.2/24,10.0.0.1:5001,2",
        "10.0.0.2/24,10.0.0.1:5001,2,4,up",
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

#[test]
fn an_error_does_not_hide_the_settings_beside_it() {
    let (options, result) = Options::from_cmdline("coopvirt.works=idel coopvirt.end=reboot");
    assert_eq!(options.end, End::Reboot);
    assert_eq!(
        result.unwrap_err().to_string(),
        "value `idel` of setting `works` is not a list of works"
    );
    let (_, result) = Options::from_cmdline("coopvirt.speed=1");
    assert_eq!(
        result,
        Err(OptionsError::UnknownSetting("speed".to_string()))
    );
    let (_, result) = Options::from_cmdline("coopvirt.reps");
    assert_eq!(result, Err(OptionsError::NoValue("reps".to_string())));
}

#[test]
fn empty_and_full_lists_have_names() {
    assert_eq!(parse_works("none"), Some(Vec::new()));
    assert_eq!(parse_works("boot"), Some(Vec::new()));
    assert_eq!(parse_works("all").unwrap().len(), 10);
    assert_eq!(parse_works(""), None);
}

#[test]
fn bad_values_are_refused() {
    for line in [
        "--reps 0",
        "--seconds 0",
        "--reps x",
        "--tlb-threads 0",
        "--marks maybe",
        "--console ../x",
        "--end never",
        "--scale 0",
        "--works",
        "works",
    ] {
        assert!(args(line).is_err(), "{line}");
    }
    assert_eq!(args("--works none --help"), Ok(None));
}

#[test]
fn scale_is_read_in_thousandths_and_leaves_at_least_one_operation() {
    assert_eq!(Scale::parse("1"), Some(Scale(1000)));
    assert_eq!(Scale::parse("0.05"), Some(Scale(50)));
    assert_eq!(Scale::parse(".5"), Some(Scale(500)));
    assert_eq!(Scale::parse("12.345"), Some(Scale(12_345)));
    for text in [
        "",
        "0",
        "-1",
        "1e3",
        "0.0001",
        "nan",
        "1001",
        "1.+5",
        "99999999999",
    ] {
        assert_eq!(Scale::parse(text), None, "{text}");
    }
    assert_eq!(Scale(50).apply(200), 10);
    assert_eq!(Scale(1).apply(2), 1);
    assert_eq!(Scale(1500).apply(3), 5);
}

#[test]
fn connections_over_sockets_need_all_three_numbers() {
    let plan = VsockPlan {
        port: 5000,
        connections: 100,
        rebinds: 2,
        bytes: None,
    };
    assert_eq!(VsockPlan::parse("5000,100,2"), Some(plan));
    let plan = VsockPlan {
        bytes: Some(64),
        ..plan
    };
    assert_eq!(VsockPlan::parse("5000,100,2,64"), Some(plan));
    for text in [
        "",
        "5000",
        "5000,100",
        "5000,0,0",
        "5000,100,2,3",
        "5000,100,2,0",
        "5000,100,2,8,8",
        "a,1,0",
    ] {
        assert_eq!(VsockPlan::parse(text), None, "{text}");
    }
}
