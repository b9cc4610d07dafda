//! `#[derive(Props)]`.
//!
//! For each field the expansion holds one `PropSpec`, one arm that sets it and one that reads it;
//! a `flatten`ed field (the properties every PCI device has, say) is asked in turn.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Error, Expr, Field, Fields, Ident, LitStr, Result, Type};

struct Prop<'a> {
    field: &'a Ident,
    ty: &'a Type,
    name: String,
    default: Option<Expr>,
    help: Option<LitStr>,
    hide_default: bool,
    flatten: bool,
}

impl<'a> Prop<'a> {
    fn parse(field: &'a Field) -> Result<Self> {
        let ident = field
            .ident
            .as_ref()
            .ok_or_else(|| Error::new_spanned(field, "a property needs a name"))?;
        let mut prop = Prop {
            field: ident,
            ty: &field.ty,
            name: ident.to_string(),
            default: None,
            help: None,
            hide_default: false,
            flatten: false,
        };
        for attr in field.attrs.iter().filter(|attr| attr.path().is_ident("prop")) {
            attr.parse_nested_meta(|meta| {
                if meta.path.is_ident("name") {
                    prop.name = meta.value()?.parse::<LitStr>()?.value();
                } else if meta.path.is_ident("default") {
                    prop.default = Some(meta.value()?.parse()?);
                } else if meta.path.is_ident("help") {
                    prop.help = Some(meta.value()?.parse()?);
                } else if meta.path.is_ident("hide_default") {
                    prop.hide_default = true;
                } else if meta.path.is_ident("flatten") {
                    prop.flatten = true;
                } else {
                    return Err(meta
                        .error("expected `name`, `default`, `help`, `hide_default` or `flatten`"));
                }
                Ok(())
            })?;
        }
        Ok(prop)
    }

    fn default_value(&self) -> TokenStream {
        match &self.default {
            Some(expr) => quote!(#expr),
            None => quote!(::core::default::Default::default()),
        }
    }
}

pub fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(input, "properties are the fields of a struct"));
    };
    let fields: Vec<&Field> = match &data.fields {
        Fields::Named(named) => named.named.iter().collect(),
        Fields::Unit => Vec::new(),
        Fields::Unnamed(_) => return Err(Error::new_spanned(input, "properties are named fields")),
    };
    let props = fields.into_iter().map(Prop::parse).collect::<Result<Vec<_>>>()?;

    let ty = &input.ident;
    let defaults = props.iter().map(|prop| {
        let (field, value) = (prop.field, prop.default_value());
        quote!(#field: #value)
    });
    let specs = props.iter().map(|prop| {
        let (field, ty, name) = (prop.field, prop.ty, &prop.name);
        if prop.flatten {
            return quote!(list.extend(<#ty as ::base::props::Props>::specs().iter().cloned()););
        }
        let help = match &prop.help {
            Some(text) => quote!(#text),
            None => quote!(<#ty as ::base::props::PropValue>::HELP),
        };
        let default = if prop.hide_default {
            quote!(::core::option::Option::None)
        } else {
            quote!(::base::props::PropValue::shown_default(&defaults.#field))
        };
        quote!(list.push(::base::props::PropSpec {
            name: #name,
            type_name: <#ty as ::base::props::PropValue>::TYPE,
            default: #default,
            help: #help,
        });)
    });
    let setters = props.iter().map(|prop| {
        let (field, name) = (prop.field, &prop.name);
        if prop.flatten {
            return quote!(
                if let ::core::option::Option::Some(done) =
                    ::base::props::Props::try_set(&mut self.#field, owner, name, input)
                {
                    return ::core::option::Option::Some(done);
                }
            );
        }
        quote!(if name == #name {
            return ::core::option::Option::Some(
                ::base::props::parse_prop(owner, #name, input).map(|value| self.#field = value),
            );
        })
    });
    let getters = props.iter().map(|prop| {
        let (field, name) = (prop.field, &prop.name);
        if prop.flatten {
            return quote!(
                if let ::core::option::Option::Some(value) = ::base::props::Props::get(&self.#field, name) {
                    return ::core::option::Option::Some(value);
                }
            );
        }
        quote!(if name == #name {
            return ::core::option::Option::Some(::base::props::PropValue::to_json(&self.#field));
        })
    });

    Ok(quote! {
        impl ::core::default::Default for #ty {
            fn default() -> Self {
                Self { #(#defaults),* }
            }
        }

        impl ::base::props::Props for #ty {
            fn specs() -> &'static [::base::props::PropSpec] {
                static SPECS: ::std::sync::LazyLock<::std::vec::Vec<::base::props::PropSpec>> =
                    ::std::sync::LazyLock::new(|| {
                        #[allow(unused_variables)]
                        let defaults = <#ty as ::core::default::Default>::default();
                        #[allow(unused_mut)]
                        let mut list = ::std::vec::Vec::new();
                        #(#specs)*
                        list
                    });
                &SPECS
            }

            #[allow(unused_variables)]
            fn try_set(
                &mut self,
                owner: &str,
                name: &str,
                input: ::base::props::PropInput<'_>,
            ) -> ::core::option::Option<::core::result::Result<(), ::base::props::PropError>> {
                #(#setters)*
                ::core::option::Option::None
            }

            #[allow(unused_variables)]
            fn get(&self, name: &str) -> ::core::option::Option<::base::props::Value> {
                #(#getters)*
                ::core::option::Option::None
            }
        }
    })
}
