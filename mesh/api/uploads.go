package api

import (
	"cmp"
	"context"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
	"github.com/skerry-metal/skerry/mesh/api/assets"
	"github.com/skerry-metal/skerry/mesh/intent"
	"github.com/skerry-metal/skerry/mesh/intent/rights"
)

// Uploads is what a Backend has too that takes assets in pieces or from a URL: a coordinator. Without it the routes answer ErrElsewhere.
type Uploads interface {
	// BeginUpload finds or makes the session of a request. Errors: 422 for what does not fit, ErrFull.
	BeginUpload(ctx context.Context, by Caller, r assets.UploadRequest) (*assets.Upload, error)
	// AppendUpload writes body where the session stands. What it returns is on disk; the session comes also with an error, once known.
	// Errors: 409 when it stands elsewhere, 400 when body breaks off, 422 when it does not end, ErrNotFound, ErrFull.
	AppendUpload(ctx context.Context, id string, offset uint64, body *assets.Body) (*assets.Upload, error)
	// PublishUpload stores and registers the asset of a whole session. Errors: 409 when it is not whole, 422 for a wrong digest.
	PublishUpload(ctx context.Context, by Caller, id string) (*intent.Object, error)
	// DropUpload forgets a session and returns how it was; Upload and Uploads look.
	DropUpload(ctx context.Context, by Caller, id string) (*assets.Upload, error)
	// CollectAssets removes the octets of assets that were deleted long ago, or says what it would remove.
	CollectAssets(ctx context.Context, dryRun bool) (*assets.Collection, error)
	UploadStatus(ctx context.Context, id string) (*assets.Upload, error)
	ListUploads(ctx context.Context) (*assets.UploadList, error)
}

type uploadInput struct {
	ID string `path:"id" maxLength:"32"`
}

// uploadActions registers the sessions of assets on their way; their octets come in appendUpload.
func (a *API) uploadActions() {
	type request struct{ Body assets.UploadRequest }
	ofUploads(a, a.op(http.MethodPost, "/v1/uploads", "begin-upload", "Begin or find the upload of an asset, or have it read from a URL", "Asset"), intent.VerbUpload,
		func(ctx context.Context, u Uploads, in *request) (*assets.Upload, error) {
			return u.BeginUpload(ctx, callerFrom(ctx), in.Body)
		})
	ofUploads(a, a.op(http.MethodGet, "/v1/uploads", "list-uploads", "The assets that are on their way", "Asset"), intent.VerbRead,
		func(ctx context.Context, u Uploads, _ *struct{}) (*assets.UploadList, error) {
			return u.ListUploads(ctx)
		})
	ofUploads(a, a.op(http.MethodGet, "/v1/uploads/{id}", "get-upload", "How far one is", "Asset"), intent.VerbRead,
		func(ctx context.Context, u Uploads, in *uploadInput) (*assets.Upload, error) {
			return u.UploadStatus(ctx, in.ID)
		})
	ofUploads(a, a.op(http.MethodPost, "/v1/uploads/{id}/publish", "publish-upload", "Register the asset, all of whose octets are there", "Asset"), intent.VerbUpload,
		func(ctx context.Context, u Uploads, in *uploadInput) (*intent.Object, error) {
			return u.PublishUpload(ctx, callerFrom(ctx), in.ID)
		})
	ofUploads(a, a.op(http.MethodDelete, "/v1/uploads/{id}", "drop-upload", "Forget one, with the octets that came", "Asset"), intent.VerbUpload,
		func(ctx context.Context, u Uploads, in *uploadInput) (*assets.Upload, error) {
			return u.DropUpload(ctx, callerFrom(ctx), in.ID)
		})

	type collect struct {
		DryRun bool `query:"dryRun" doc:"answer, remove nothing"`
	}
	ofUploads(a, a.op(http.MethodPost, "/v1/assets/collect", "collect-assets", "Remove the octets of assets that were deleted long ago", "Asset"), intent.VerbUpload,
		func(ctx context.Context, u Uploads, in *collect) (*assets.Collection, error) {
			return u.CollectAssets(ctx, in.DryRun)
		})
}

// ofUploads registers a route that only a backend with Uploads answers.
func ofUploads[In, Out any](a *API, op huma.Operation, verb intent.Verb, do func(context.Context, Uploads, *In) (*Out, error)) {
	register(a, op, func(*In) rights.Request { return rights.Request{Verb: verb, Kind: intent.KindAsset} },
		func(ctx context.Context, in *In) (*Out, error) {
			u, ok := a.b.(Uploads)
			if !ok {
				return nil, ErrElsewhere
			}
			return do(ctx, u, in)
		})
}

func (a *API) appendUpload(w http.ResponseWriter, r *http.Request, _ Caller) error {
	if err := a.authorise(r.Context(), rights.Request{Verb: intent.VerbUpload, Kind: intent.KindAsset}); err != nil {
		return err
	}
	u, ok := a.b.(Uploads)
	if !ok {
		return ErrElsewhere
	}
	at, err := strconv.ParseUint(r.Header.Get(assets.OffsetHeader), 10, 63)
	if err != nil {
		return &Error{Status: http.StatusUnprocessableEntity, Type: "invalid", Detail: assets.OffsetHeader + " says at which octet of the asset the body begins"}
	}
	body := assets.NewBody(w, r)
	defer body.End()
	s, err := u.AppendUpload(r.Context(), r.PathValue("id"), at, body)
	if s != nil {
		w.Header().Set(assets.OffsetHeader, strconv.FormatUint(s.Offset, 10))
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	writeJSON(w, s)
	return nil
}

func (a *API) upload(w http.ResponseWriter, r *http.Request, by Caller) error {
	if err := a.authorise(r.Context(), rights.Request{Verb: intent.VerbUpload, Kind: intent.KindAsset}); err != nil {
		return err
	}
	name, class := r.PathValue("name"), cmp.Or(r.URL.Query().Get("class"), "image")
	if !intent.IsLabel(name) {
		return &Error{Status: http.StatusUnprocessableEntity, Type: "invalid", Detail: "the asset's name is no DNS label"}
	}
	o, err := a.b.Upload(r.Context(), by, name, class, http.MaxBytesReader(w, r.Body, intent.MaxAssetSize))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("ETag", ETag(o))
	w.WriteHeader(http.StatusCreated)
	writeJSON(w, o)
	return nil
}
