//! How shared items are declared: once, as code and as a table that describes the code.
//!
//! The macros of this module emit a type and, beside it, its description. From the descriptions
//! follow the C header, the tables of `SPEC.md` and the output of `coopvirt hypercalls`, so that
//! none of them can drift from the types. Nothing here is used at run time by either side.

/// One member of a shared structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its Rust type as written: `u32`, `[u64; 6]`.
    pub kind: &'static str,
    /// Byte offset in the structure.
    pub offset: usize,
    /// Size in bytes.
    pub size_bytes: usize,
    /// What it is, one sentence.
    pub purpose: &'static str,
}

/// A structure in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Structure {
    /// Its name.
    pub name: &'static str,
    /// Size in bytes.
    pub size_bytes: usize,
    /// What it is.
    pub purpose: &'static str,
    /// Its members, in order of offset.
    pub fields: &'static [Field],
}

/// One named value of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// Its name, upper case.
    pub name: &'static str,
    /// Its value, widened.
    pub value: u64,
    /// What it means.
    pub purpose: &'static str,
}

/// Declares a `repr(C)` structure whose offsets and size are written beside it and checked by the
/// compiler, with a `DESCRIPTION`.
macro_rules! shared_struct {
    (
        $(#[doc = $doc:literal])+
        pub struct $Name:ident: $size:literal {
            $($(#[doc = $field_doc:literal])+ $offset:literal => $field:ident: $kind:ty,)+
        }
    ) => {
        $(#[doc = $doc])+
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $Name {
            $($(#[doc = $field_doc])+ pub $field: $kind,)+
        }

        const _: () = {
            assert!(core::mem::size_of::<$Name>() == $size);
            $(assert!(core::mem::offset_of!($Name, $field) == $offset);)+
            // Without gaps: every byte belongs to a field, so there is no padding to leak.
            assert!($size == 0 $(+ core::mem::size_of::<$kind>())+);
        };

        impl $Name {
            /// The structure's description.
            pub const DESCRIPTION: crate::describe::Structure = crate::describe::Structure {
                name: stringify!($Name),
                size_bytes: $size,
                purpose: concat!($($doc),+),
                fields: &[$(crate::describe::Field {
                    name: stringify!($field),
                    kind: stringify!($kind),
                    offset: $offset,
                    size_bytes: core::mem::size_of::<$kind>(),
                    purpose: concat!($($field_doc),+),
                }),+],
            };
        }
    };
}

/// Declares an open code: a transparent integer with named values, where zero is invalid and an
/// unknown value is data like any other (`[ABI-3]`).
macro_rules! open_code {
    (
        $(#[doc = $doc:literal])+
        pub struct $Name:ident($int:ty) {
            $($(#[doc = $value_doc:literal])+ $VALUE:ident = $value:literal,)+
        }
    ) => {
        $(#[doc = $doc])+
        #[repr(transparent)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $Name(pub $int);

        impl $Name {
            $($(#[doc = $value_doc])+ pub const $VALUE: $Name = $Name($value);)+

            /// All named values, with what they mean.
            pub const ALL: &'static [crate::describe::Code] = &[$(crate::describe::Code {
                name: stringify!($VALUE),
                value: $value,
                purpose: concat!($($value_doc),+),
            }),+];

            /// The name of this value, if it has one.
            pub fn name(self) -> Option<&'static str> {
                let value = u64::from(self.0);
                Self::ALL.iter().find(|code| code.value == value).map(|code| code.name)
            }
        }

        impl core::fmt::Debug for $Name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::Display::fmt(self, f)
            }
        }

        impl core::fmt::Display for $Name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "{}({:#x})", stringify!($Name), self.0),
                }
            }
        }
    };
}

pub(crate) use {open_code, shared_struct};
