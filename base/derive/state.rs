//! `#[derive(State)]`.
//!
//! A struct becomes a list of named fields with a version; a tuple struct of one field is written
//! as that field; an enum is written as its variant's name and the variant's fields.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{
    Data, DeriveInput, Error, Expr, Field, Fields, Ident, LitInt, LitStr, Member, Result, Type,
    Variant,
};

/// `#[state(...)]` on the type.
#[derive(Default)]
struct TypeAttrs {
    version: u32,
    check: bool,
    reset: bool,
}

impl TypeAttrs {
    fn parse(input: &DeriveInput) -> Result<Self> {
        let mut attrs = TypeAttrs::default();
        for attr in input.attrs.iter().filter(|attr| attr.path().is_ident("state")) {
            attr.parse_nested_meta(|meta| {
                if meta.path.is_ident("version") {
                    attrs.version = meta.value()?.parse::<LitInt>()?.base10_parse()?;
                } else if meta.path.is_ident("check") {
                    attrs.check = true;
                } else if meta.path.is_ident("reset") {
                    attrs.reset = true;
                } else {
                    return Err(meta.error("expected `version`, `check` or `reset`"));
                }
                Ok(())
            })?;
        }
        Ok(attrs)
    }
}

/// `#[state(...)]` on a field.
struct FieldAttrs<'a> {
    member: Member,
    ty: &'a Type,
    name: String,
    since: Option<LitInt>,
    default: Option<Expr>,
    reset: Option<Expr>,
    skip: bool,
}

impl<'a> FieldAttrs<'a> {
    fn parse(field: &'a Field, index: usize, version: u32) -> Result<Self> {
        let (member, name) = match &field.ident {
            Some(ident) => (Member::Named(ident.clone()), ident.to_string()),
            None => (Member::from(index), index.to_string()),
        };
        let mut attrs = FieldAttrs {
            member,
            ty: &field.ty,
            name,
            since: None,
            default: None,
            reset: None,
            skip: false,
        };
        for attr in field.attrs.iter().filter(|attr| attr.path().is_ident("state")) {
            attr.parse_nested_meta(|meta| {
                if meta.path.is_ident("since") {
                    attrs.since = Some(meta.value()?.parse()?);
                } else if meta.path.is_ident("default") {
                    attrs.default = Some(meta.value()?.parse()?);
                } else if meta.path.is_ident("reset") {
                    attrs.reset = Some(meta.value()?.parse()?);
                } else if meta.path.is_ident("skip") {
                    let reason: LitStr = meta.value()?.parse()?;
                    if reason.value().trim().is_empty() {
                        return Err(Error::new_spanned(reason, "say why this is not state"));
                    }
                    attrs.skip = true;
                } else {
                    return Err(
                        meta.error("expected `since`, `default`, `reset` or `skip = \"reason\"`")
                    );
                }
                Ok(())
            })?;
        }
        if let Some(since) = &attrs.since
            && since.base10_parse::<u32>()? > version
        {
            return Err(Error::new_spanned(since, "newer than the type's own `version`"));
        }
        if attrs.default.is_some() && attrs.since.is_none() && !attrs.skip {
            return Err(Error::new_spanned(
                field,
                "`default` is for fields with `since` or `skip`",
            ));
        }
        Ok(attrs)
    }

    fn default_value(&self) -> TokenStream {
        match &self.default {
            Some(expr) => quote!(#expr),
            None => quote!(::core::default::Default::default()),
        }
    }

    /// An expression of the field's type, read from `fields`.
    fn decode(&self) -> TokenStream {
        let (name, ty, default) = (&self.name, self.ty, self.default_value());
        if self.skip {
            return default;
        }
        match &self.since {
            Some(since) => quote!(fields.take_since::<#ty>(#name, #since, || #default)?),
            None => quote!(fields.take::<#ty>(#name)?),
        }
    }
}

fn parse_fields(fields: &Fields, version: u32) -> Result<Vec<FieldAttrs<'_>>> {
    fields
        .iter()
        .enumerate()
        .map(|(index, field)| FieldAttrs::parse(field, index, version))
        .collect()
}

pub fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let attrs = TypeAttrs::parse(input)?;
    let ty = &input.ident;
    let (impl_generics, ty_generics, where_clause) = input.generics.split_for_impl();

    let (bodies, reset) = match &input.data {
        Data::Struct(data) => {
            let fields = parse_fields(&data.fields, attrs.version)?;
            let reset = reset_values(&fields, attrs.reset, input)?;
            match (&data.fields, fields.as_slice()) {
                (Fields::Unnamed(_), [only]) => (newtype(only), reset),
                _ => (structure(&fields, &attrs), reset),
            }
        }
        Data::Enum(data) => {
            if attrs.reset {
                return Err(Error::new_spanned(
                    input,
                    "`reset` is for structs; derive Default for an enum",
                ));
            }
            (enumeration(data.variants.iter(), &attrs)?, None)
        }
        Data::Union(_) => return Err(Error::new_spanned(input, "a union has no saved form")),
    };
    let Bodies { encode, decode } = bodies;
    let version = attrs.version;
    let check = attrs.check.then(|| quote!(Self::check(&value)?;));
    let default = reset.map(|values| {
        quote!(
            impl #impl_generics ::core::default::Default for #ty #ty_generics #where_clause {
                fn default() -> Self {
                    Self { #(#values),* }
                }
            }
        )
    });

    Ok(quote! {
        impl #impl_generics ::base::state::State for #ty #ty_generics #where_clause {
            fn version() -> u32 {
                #version
            }

            #[allow(unused_variables)]
            fn encode(&self, writer: &mut ::base::state::Writer) {
                #encode
            }

            fn decode(
                reader: &mut ::base::state::Reader<'_>,
            ) -> ::core::result::Result<Self, ::base::state::StateError> {
                let value = { #decode };
                #check
                ::core::result::Result::Ok(value)
            }
        }
        #default
    })
}

struct Bodies {
    encode: TokenStream,
    /// An expression of type `Self`.
    decode: TokenStream,
}

fn reset_values(
    fields: &[FieldAttrs<'_>],
    wanted: bool,
    input: &DeriveInput,
) -> Result<Option<Vec<TokenStream>>> {
    if !wanted {
        return match fields.iter().find_map(|field| field.reset.as_ref()) {
            Some(expr) => Err(Error::new_spanned(expr, "needs `#[state(reset)]` on the struct")),
            None => Ok(None),
        };
    }
    if fields.is_empty() {
        return Err(Error::new_spanned(input, "nothing to reset"));
    }
    let value = |field: &FieldAttrs<'_>| {
        let member = &field.member;
        match &field.reset {
            Some(expr) => quote!(#member: #expr),
            None => quote!(#member: ::core::default::Default::default()),
        }
    };
    Ok(Some(fields.iter().map(value).collect()))
}

fn newtype(field: &FieldAttrs<'_>) -> Bodies {
    let ty = field.ty;
    Bodies {
        encode: quote!(::base::state::State::encode(&self.0, writer);),
        decode: quote!(Self(<#ty as ::base::state::State>::decode(reader)?)),
    }
}

fn structure(fields: &[FieldAttrs<'_>], attrs: &TypeAttrs) -> Bodies {
    let version = attrs.version;
    let saved: Vec<_> = fields.iter().filter(|field| !field.skip).collect();
    let names: Vec<_> = saved.iter().map(|field| &field.name).collect();
    let members: Vec<_> = saved.iter().map(|field| &field.member).collect();
    let all_members = fields.iter().map(|field| &field.member);
    let decoded = fields.iter().map(FieldAttrs::decode);
    Bodies {
        encode: quote!(writer.fields(#version, &[#((#names, &self.#members)),*]);),
        decode: quote! {
            #[allow(unused_mut)]
            let mut fields = reader.fields(#version)?;
            let value = Self { #(#all_members: #decoded),* };
            fields.finish()?;
            value
        },
    }
}

fn enumeration<'a>(
    variants: impl Iterator<Item = &'a Variant>,
    attrs: &TypeAttrs,
) -> Result<Bodies> {
    let version = attrs.version;
    let (mut encode, mut decode) = (Vec::new(), Vec::new());
    for variant in variants {
        let (ident, text) = (&variant.ident, variant.ident.to_string());
        let fields = parse_fields(&variant.fields, version)?;
        let bindings: Vec<Ident> =
            (0..fields.len()).map(|index| format_ident!("field{index}")).collect();
        let members = fields.iter().map(|field| &field.member);
        let pattern = quote!(Self::#ident { #(#members: #bindings),* });
        let saved: Vec<_> = fields
            .iter()
            .zip(&bindings)
            .filter(|(field, _)| !field.skip)
            .map(|(field, binding)| {
                let name = &field.name;
                quote!((#name, #binding))
            })
            .collect();
        let members = fields.iter().map(|field| &field.member);
        let decoded = fields.iter().map(FieldAttrs::decode);
        encode.push(quote!(#[allow(unused_variables)] #pattern => {
            writer.variant(#text, #version, &[#(#saved),*]);
        }));
        decode.push(quote!(#text => Self::#ident { #(#members: #decoded),* }));
    }
    Ok(Bodies {
        encode: quote!(match self { #(#encode)* }),
        decode: quote! {
            #[allow(unused_mut)]
            let (name, mut fields) = reader.variant(#version)?;
            let value = match name {
                #(#decode,)*
                other => {
                    return ::core::result::Result::Err(::base::state::StateError::unknown_variant(other));
                }
            };
            fields.finish()?;
            value
        },
    })
}
